#include "predict/kernels/rnn_packed.h"

#include <algorithm>
#include <array>
#include <numbers>

namespace torchpool::kernels {

namespace {

constexpr std::ptrdiff_t kPanel = 8;

std::ptrdiff_t rounded_up(std::ptrdiff_t size, std::ptrdiff_t to) {
  return (size + to - 1) / to * to;
}

// One layer's direction, as sizes.
struct Form {
  RnnKind kind;
  std::ptrdiff_t inputs, hidden;

  Form(const RnnModel& model, std::ptrdiff_t layer)
      : kind(model.kind), inputs(layer == 0 ? model.input : model.directions * model.hidden), hidden(model.hidden) {}

  std::ptrdiff_t units() const { return kind == RnnKind::kTanh ? 4 : 1; }  // of a group
  std::ptrdiff_t weights() const { return kind == RnnKind::kGru ? 3 : 4; }
  std::ptrdiff_t groups() const { return rounded_up(hidden, units()) / units(); }
  std::ptrdiff_t panels() const { return rounded_up(groups(), kPanel) / kPanel; }
  std::ptrdiff_t depth() const { return inputs + hidden; }
  // Each part begins a line of the cache.
  std::ptrdiff_t unit_bias() const { return rounded_up(groups() * depth() * weights(), 16); }
  std::ptrdiff_t by_panel() const { return unit_bias() + rounded_up(groups() * 4, 16); }
  std::ptrdiff_t panel_bias() const { return by_panel() + rounded_up(panels() * depth() * weights() * kPanel, 16); }
  std::ptrdiff_t size() const { return panel_bias() + panels() * 4 * kPanel; }
};

// One direction's parameters, as the sums of a unit see them.
class Source {
 public:
  Source(const Form& form, const float* const* parameters)
      : form_(form), of_input_(parameters[0]), of_state_(parameters[1]), biases_{parameters[2], parameters[3]} {}

  // What value k of input and state is multiplied by for sum `gate` of a unit; 0 behind the last unit.
  float weight(std::ptrdiff_t unit, std::ptrdiff_t gate, std::ptrdiff_t k) const {
    if (unit >= form_.hidden) return 0.0F;
    const std::ptrdiff_t row = gate * form_.hidden + unit;
    const float weight =
        k < form_.inputs ? of_input_[row * form_.inputs + k] : of_state_[row * form_.hidden + k - form_.inputs];
    return static_cast<float>(scale(gate) * weight);
  }

  float bias(std::ptrdiff_t unit, std::ptrdiff_t sum) const {
    if (unit >= form_.hidden) return 0.0F;
    if (form_.kind != RnnKind::kGru || sum < 2) {
      return static_cast<float>(scale(sum) * (of(0, sum, unit) + of(1, sum, unit)));
    }
    return static_cast<float>(scale(2) * of(sum - 2, 2, unit));  // the candidate's, input and state apart
  }

 private:
  double scale(std::ptrdiff_t gate) const {
    return form_.kind == RnnKind::kTanh || gate == 2 ? -2.0 * std::numbers::log2e : -std::numbers::log2e;
  }
  double of(std::ptrdiff_t which, std::ptrdiff_t gate, std::ptrdiff_t unit) const {
    return bias(which) == nullptr ? 0.0 : bias(which)[gate * form_.hidden + unit];
  }

  const float* bias(std::ptrdiff_t which) const { return biases_[static_cast<std::size_t>(which)]; }

  const Form& form_;
  const float* of_input_;
  const float* of_state_;
  const std::array<const float*, 2> biases_;
};

void pack_direction(const Form& form, const Source& source, float* packed) {
  const bool one_gate = form.units() > 1;  // sums of a group are units then, not gates
  const auto weight = [&](std::ptrdiff_t group, std::ptrdiff_t sum, std::ptrdiff_t k) {
    return one_gate ? source.weight(4 * group + sum, 0, k) : source.weight(group, sum, k);
  };
  const auto bias = [&](std::ptrdiff_t group, std::ptrdiff_t sum) {
    return one_gate ? source.bias(4 * group + sum, 0) : source.bias(group, sum);
  };
  // A panel's lanes are adjacent units; those of a tanh RNN are in 4 vectors of 8.
  const auto panel_weight = [&](std::ptrdiff_t panel, std::ptrdiff_t sum, std::ptrdiff_t lane, std::ptrdiff_t k) {
    return one_gate ? source.weight(panel * 32 + sum * kPanel + lane, 0, k)
                    : source.weight(panel * kPanel + lane, sum, k);
  };
  float* to = packed;
  for (std::ptrdiff_t group = 0; group < form.groups(); ++group) {
    for (std::ptrdiff_t k = 0; k < form.depth(); ++k) {
      for (std::ptrdiff_t sum = 0; sum < form.weights(); ++sum) *to++ = weight(group, sum, k);
    }
  }
  to = packed + form.unit_bias();
  for (std::ptrdiff_t group = 0; group < form.groups(); ++group) {
    for (std::ptrdiff_t sum = 0; sum < 4; ++sum) *to++ = bias(group, sum);
  }
  to = packed + form.by_panel();
  for (std::ptrdiff_t panel = 0; panel < form.panels(); ++panel) {
    for (std::ptrdiff_t k = 0; k < form.depth(); ++k) {
      for (std::ptrdiff_t sum = 0; sum < form.weights(); ++sum) {
        for (std::ptrdiff_t lane = 0; lane < kPanel; ++lane) *to++ = panel_weight(panel, sum, lane, k);
      }
    }
  }
  to = packed + form.panel_bias();
  for (std::ptrdiff_t panel = 0; panel < form.panels(); ++panel) {
    for (std::ptrdiff_t sum = 0; sum < 4; ++sum) {
      for (std::ptrdiff_t lane = 0; lane < kPanel; ++lane) {
        *to++ = one_gate ? source.bias(panel * 32 + sum * kPanel + lane, 0) : source.bias(panel * kPanel + lane, sum);
      }
    }
  }
}

}  // namespace

std::ptrdiff_t packed_size(const RnnModel& model) noexcept {
  std::ptrdiff_t size = 0;
  for (std::ptrdiff_t layer = 0; layer < model.layers; ++layer) size += model.directions * Form(model, layer).size();
  return size;
}

void pack_rnn(const RnnModel& model, const std::vector<const float*>& parameters, float* packed) {
  std::fill_n(packed, packed_size(model), 0.0F);
  const float* const* own = parameters.data();
  for (std::ptrdiff_t layer = 0; layer < model.layers; ++layer) {
    const Form form(model, layer);
    for (std::ptrdiff_t direction = 0; direction < model.directions; ++direction) {
      pack_direction(form, Source(form, own), packed);
      packed += form.size();
      own += 4;
    }
  }
}

std::vector<RnnDirection> packed_directions(const RnnModel& model, const float* packed) {
  std::vector<RnnDirection> directions;
  for (std::ptrdiff_t layer = 0; layer < model.layers; ++layer) {
    const Form form(model, layer);
    for (std::ptrdiff_t direction = 0; direction < model.directions; ++direction) {
      directions.push_back({.by_unit = packed,
                            .unit_bias = packed + form.unit_bias(),
                            .by_panel = packed + form.by_panel(),
                            .panel_bias = packed + form.panel_bias()});
      packed += form.size();
    }
  }
  return directions;
}

std::ptrdiff_t rnn_scratch(const RnnModel& model, std::ptrdiff_t rows, std::ptrdiff_t steps) noexcept {
  // The widest of a block's slots in either way, and what a panel of 32 units writes behind the last one.
  const std::ptrdiff_t width = std::max(model.input, model.directions * model.hidden) + 32;
  const std::ptrdiff_t most = std::min(rounded_up(rows, 16), kRnnMostRows);
  return most * (2 * (steps + 2) * width + rounded_up(model.hidden, 32));
}

void run_rnn(Isa isa, const RnnModel& model, const RnnCall& call, float* scratch) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return run_rnn_avx512(model, call, scratch);
  if (isa == Isa::kAvx2) return run_rnn_avx2(model, call, scratch);
#else
  (void)isa;
#endif
  run_rnn_portable(model, call, scratch);
}

}  // namespace torchpool::kernels
