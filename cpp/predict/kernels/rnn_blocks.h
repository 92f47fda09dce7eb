// All steps of all layers, for a block of rows. For files of one instruction set only.
#pragma once

#include "predict/kernels/lanes.h"
#include "predict/kernels/rnn.h"
#include "predict/kernels/rnn_steps.h"

namespace torchpool::kernels {
namespace {  // NOLINT(google-build-namespaces): see Note [One file an instruction set]

// Rows of a call, in its order.
struct RnnBlock {
  const RnnModel& model;
  const RnnCall& call;
  std::ptrdiff_t begin;  // the first of the rows
  std::ptrdiff_t count;

  // Rows behind the last one are it once more.
  TP_INLINE std::ptrdiff_t place(std::ptrdiff_t i) const { return begin + (i < count ? i : count - 1); }
  TP_INLINE std::ptrdiff_t row(std::ptrdiff_t i) const {
    return call.order == nullptr ? place(i) : static_cast<std::ptrdiff_t>(call.order[place(i)]);
  }
  TP_INLINE std::ptrdiff_t length(std::ptrdiff_t i) const {
    return call.lengths == nullptr ? call.steps : static_cast<std::ptrdiff_t>(call.lengths[place(i)]);
  }
  TP_INLINE std::ptrdiff_t state(std::ptrdiff_t part, std::ptrdiff_t i) const {
    return (part * call.all_rows + row(i)) * model.hidden;
  }
  TP_INLINE bool ragged() const { return call.lengths != nullptr; }
  // The rows that are not at their end yet at a step, as they are sorted; at most the count of them at an earlier one.
  TP_INLINE std::ptrdiff_t running(std::ptrdiff_t step, std::ptrdiff_t earlier) const {
    while (earlier > 0 && length(earlier - 1) <= step) --earlier;
    return earlier;
  }
  const float* input(std::ptrdiff_t i, std::ptrdiff_t step) const {
    return call.input + row(i) * call.input_row + step * call.input_step;
  }
  float* output(std::ptrdiff_t i, std::ptrdiff_t step) const {
    return call.output + row(i) * call.output_row + step * call.output_step;
  }
};

TP_INLINE void clear(float* values, std::ptrdiff_t count) {
  __builtin_memset(values, 0, sizeof(float) * static_cast<std::size_t>(count));
}
TP_INLINE void copy(float* to, const float* from, std::ptrdiff_t count) {
  __builtin_memcpy(to, from, sizeof(float) * static_cast<std::size_t>(count));
}
TP_INLINE std::ptrdiff_t larger(std::ptrdiff_t a, std::ptrdiff_t b) {
  return a > b ? a : b;
}

// A layer's results lie in slots, one a step, with one more before the first step and behind the last: there begin the
// states of the directions. The next layer reads them and writes its own into a second set of slots.

// --- Lanes are rows.

template <typename L, RnnKind kKind, int kVectors>
class RowsBlock {
 public:
  RowsBlock(const RnnBlock& block, float* scratch)
      : block_(block),
        steps_(block.length(0)),
        width_(larger(block.model.input, block.model.directions * block.model.hidden) * kRows),
        given_(scratch),
        made_(given_ + (steps_ + 2) * width_),
        cell_(made_ + (steps_ + 2) * width_) {}

  void run() {
    read_input();
    const RnnModel& model = block_.model;
    for (std::ptrdiff_t layer = 0; layer < model.layers; ++layer) {
      const std::ptrdiff_t inputs = layer == 0 ? model.input : model.directions * model.hidden;
      for (std::ptrdiff_t direction = 0; direction < model.directions; ++direction) {
        part_ = layer * model.directions + direction;
        own_ = made_ + direction * model.hidden * kRows;
        if (direction == 0) {
          run_forward(inputs);
        } else {
          run_backward(inputs);
        }
      }
      float* const made = made_;
      made_ = given_;
      given_ = made;
    }
    if (block_.call.output != nullptr) write_output();
  }

 private:
  static constexpr std::ptrdiff_t kRows = L::kLanes * kVectors;

  void read_input() {
    for (std::ptrdiff_t first = 0; first < kRows; first += L::kGroup) {
      const float* rows[L::kGroup];
      for (int i = 0; i < L::kGroup; ++i) rows[i] = block_.input(first + i, 0);
      const std::ptrdiff_t steps = block_.length(first);
      for (std::ptrdiff_t step = 0; step < steps; ++step) {
        L::to_lanes(rows, block_.model.input, given_ + (step + 1) * width_ + first, kRows);
        for (int i = 0; i < L::kGroup; ++i) rows[i] += block_.call.input_step;
      }
    }
  }

  void write_output() {
    const std::ptrdiff_t features = block_.model.directions * block_.model.hidden;
    for (std::ptrdiff_t first = 0; first < block_.count; first += L::kGroup) {
      float* rows[L::kGroup];
      for (int i = 0; i < L::kGroup; ++i) rows[i] = block_.output(first + i, 0);
      const std::ptrdiff_t left = block_.count - first;
      const std::ptrdiff_t count = left < L::kGroup ? left : L::kGroup;
      std::ptrdiff_t running = count;
      for (std::ptrdiff_t step = 0; step < block_.call.steps; ++step) {
        while (running > 0 && block_.length(first + running - 1) <= step) --running;
        if (running > 0) {
          L::from_lanes(given_ + (step + 1) * width_ + first, kRows, features, rows, static_cast<int>(running));
        }
        for (std::ptrdiff_t i = running; i < count; ++i) clear(rows[i], features);
        for (int i = 0; i < L::kGroup; ++i) rows[i] += block_.call.output_step;
      }
    }
  }

  float* slot(std::ptrdiff_t number) const { return own_ + number * width_; }

  void begin(std::ptrdiff_t lane, std::ptrdiff_t number) {
    const std::ptrdiff_t state = block_.state(part_, lane);
    const float* hidden = block_.call.first_hidden;
    const float* cell = block_.call.first_cell;
    for (std::ptrdiff_t unit = 0; unit < block_.model.hidden; ++unit) {
      slot(number)[unit * kRows + lane] = hidden == nullptr ? 0.0F : hidden[state + unit];
      if constexpr (kKind == RnnKind::kLstm) cell_[unit * kRows + lane] = cell == nullptr ? 0.0F : cell[state + unit];
    }
  }

  void begin_all(std::ptrdiff_t number) {
    if (block_.call.first_hidden == nullptr && block_.call.first_cell == nullptr) {
      clear(slot(number), block_.model.hidden * kRows);
      if constexpr (kKind == RnnKind::kLstm) clear(cell_, block_.model.hidden * kRows);
    } else {
      for (std::ptrdiff_t lane = 0; lane < kRows; ++lane) begin(lane, number);
    }
  }

  void end(std::ptrdiff_t lane, std::ptrdiff_t number) {
    const std::ptrdiff_t state = block_.state(part_, lane);
    for (std::ptrdiff_t unit = 0; unit < block_.model.hidden; ++unit) {
      block_.call.last_hidden[state + unit] = slot(number)[unit * kRows + lane];
      if constexpr (kKind == RnnKind::kLstm) block_.call.last_cell[state + unit] = cell_[unit * kRows + lane];
    }
  }

  void end_all(std::ptrdiff_t number) {
    const std::ptrdiff_t hidden = block_.model.hidden;
    for (std::ptrdiff_t first = 0; first < block_.count; first += L::kGroup) {
      const std::ptrdiff_t left = block_.count - first;
      const int count = static_cast<int>(left < L::kGroup ? left : L::kGroup);
      float* rows[L::kGroup];
      for (int i = 0; i < count; ++i) rows[i] = block_.call.last_hidden + block_.state(part_, first + i);
      L::from_lanes(slot(number) + first, kRows, hidden, rows, count);
      if constexpr (kKind == RnnKind::kLstm) {
        for (int i = 0; i < count; ++i) rows[i] = block_.call.last_cell + block_.state(part_, first + i);
        L::from_lanes(cell_ + first, kRows, hidden, rows, count);
      }
    }
  }

  // Vectors in which no row runs any more, or none yet, are left out.
  void step(std::ptrdiff_t inputs, std::ptrdiff_t number, std::ptrdiff_t before, std::ptrdiff_t running) {
    RnnStep step;
    step.weights = block_.model.weights[part_];
    step.inputs = inputs;
    step.hidden = block_.model.hidden;
    step.input = given_ + number * width_;
    step.before = slot(before);
    step.after = slot(number);
    step.cell = cell_;
    step.stride = kRows;
    const std::ptrdiff_t vectors = (running + L::kLanes - 1) / L::kLanes;
    if constexpr (kVectors > 2) {
      if (vectors > 2) return rows_step<L, kKind, 3>(step);
    }
    if constexpr (kVectors > 1) {
      if (vectors > 1) return rows_step<L, kKind, 2>(step);
    }
    rows_step<L, kKind, 1>(step);
  }

  void run_forward(std::ptrdiff_t inputs) {
    begin_all(0);
    std::ptrdiff_t running = block_.count;
    for (std::ptrdiff_t number = 1; number <= steps_; ++number) {
      step(inputs, number, number - 1, running);
      const std::ptrdiff_t left = block_.running(number, running);
      if (block_.ragged()) {
        for (std::ptrdiff_t lane = left; lane < running; ++lane) end(lane, number);
      }
      running = left;
    }
    if (!block_.ragged()) end_all(steps_);
  }

  void run_backward(std::ptrdiff_t inputs) {
    std::ptrdiff_t running = 0;
    if (!block_.ragged()) {
      begin_all(steps_ + 1);
      running = block_.count;
    }
    for (std::ptrdiff_t number = steps_; number > 0; --number) {
      while (running < block_.count && block_.length(running) >= number) begin(running++, number + 1);
      step(inputs, number, number + 1, running);
    }
    end_all(1);
  }

  const RnnBlock& block_;
  const std::ptrdiff_t steps_;
  const std::ptrdiff_t width_;  // of a slot
  float* given_;
  float* made_;
  float* const cell_;
  float* own_ = nullptr;     // the direction's part of what is made
  std::ptrdiff_t part_ = 0;  // layer and direction
};

// --- Lanes are units.

template <typename L, RnnKind kKind>
class UnitsBlock {
 public:
  UnitsBlock(const RnnBlock& block, float* scratch)
      : block_(block),
        steps_(block.length(0)),
        cell_width_((block.model.hidden + 31) / 32 * 32),
        width_(block.model.directions * block.model.hidden + 32),
        given_(scratch),
        made_(given_ + (steps_ + 2) * width_ * block.count),
        cell_(made_ + (steps_ + 2) * width_ * block.count) {}

  void run() {
    const RnnModel& model = block_.model;
    for (std::ptrdiff_t layer = 0; layer < model.layers; ++layer) {
      for (std::ptrdiff_t direction = 0; direction < model.directions; ++direction) {
        part_ = layer * model.directions + direction;
        own_ = made_ + direction * model.hidden;
        if (direction == 0) {
          run_forward(layer);
        } else {
          run_backward(layer);
        }
      }
      float* const made = made_;
      made_ = given_;
      given_ = made;
    }
    if (block_.call.output != nullptr) write_output();
  }

 private:
  static constexpr int kTile = 3;  // rows at once

  void write_output() {
    const std::ptrdiff_t features = block_.model.directions * block_.model.hidden;
    for (std::ptrdiff_t i = 0; i < block_.count; ++i) {
      for (std::ptrdiff_t step = 0; step < block_.call.steps; ++step) {
        if (step < block_.length(i)) {
          copy(block_.output(i, step), given_ + ((step + 1) * block_.count + i) * width_, features);
        } else {
          clear(block_.output(i, step), features);
        }
      }
    }
  }

  float* slot(std::ptrdiff_t number, std::ptrdiff_t row) const { return own_ + (number * block_.count + row) * width_; }
  float* cell(std::ptrdiff_t row) const { return cell_ + row * cell_width_; }

  void begin(std::ptrdiff_t row, std::ptrdiff_t number) {
    const std::ptrdiff_t hidden = block_.model.hidden;
    const std::ptrdiff_t state = block_.state(part_, row);
    if (block_.call.first_hidden == nullptr) {
      clear(slot(number, row), hidden);
    } else {
      copy(slot(number, row), block_.call.first_hidden + state, hidden);
    }
    if constexpr (kKind == RnnKind::kLstm) {
      clear(cell(row), cell_width_);
      if (block_.call.first_cell != nullptr) copy(cell(row), block_.call.first_cell + state, hidden);
    }
  }

  void end(std::ptrdiff_t row, std::ptrdiff_t number) {
    const std::ptrdiff_t state = block_.state(part_, row);
    copy(block_.call.last_hidden + state, slot(number, row), block_.model.hidden);
    if constexpr (kKind == RnnKind::kLstm) copy(block_.call.last_cell + state, cell(row), block_.model.hidden);
  }

  void step(std::ptrdiff_t layer, std::ptrdiff_t number, std::ptrdiff_t before, std::ptrdiff_t running) {
    for (std::ptrdiff_t row = 0; row < running; row += kTile) {
      const std::ptrdiff_t count = running - row < kTile ? running - row : kTile;
      const float* inputs[kTile];
      for (std::ptrdiff_t i = 0; i < count; ++i) {
        inputs[i] =
            layer == 0 ? block_.input(row + i, number - 1) : given_ + (number * block_.count + row + i) * width_;
      }
      RnnStep step;
      step.weights = block_.model.weights[part_];
      step.inputs = layer == 0 ? block_.model.input : block_.model.directions * block_.model.hidden;
      step.hidden = block_.model.hidden;
      step.before = slot(before, row);
      step.after = slot(number, row);
      step.cell = cell(row);
      const FewRows rows{inputs, width_, cell_width_};
      if (count == 1) {
        units_step<L, kKind, 1>(step, rows);
      } else if (count == 2) {
        units_step<L, kKind, 2>(step, rows);
      } else {
        units_step<L, kKind, 3>(step, rows);
      }
    }
  }

  void run_forward(std::ptrdiff_t layer) {
    for (std::ptrdiff_t row = 0; row < block_.count; ++row) begin(row, 0);
    std::ptrdiff_t running = block_.count;
    for (std::ptrdiff_t number = 1; number <= steps_; ++number) {
      step(layer, number, number - 1, running);
      const std::ptrdiff_t left = block_.running(number, running);
      for (std::ptrdiff_t row = left; row < running; ++row) end(row, number);
      running = left;
    }
  }

  void run_backward(std::ptrdiff_t layer) {
    std::ptrdiff_t running = 0;
    for (std::ptrdiff_t number = steps_; number > 0; --number) {
      while (running < block_.count && block_.length(running) >= number) begin(running++, number + 1);
      step(layer, number, number + 1, running);
    }
    for (std::ptrdiff_t row = 0; row < block_.count; ++row) end(row, 1);
  }

  const RnnBlock& block_;
  const std::ptrdiff_t steps_;
  const std::ptrdiff_t cell_width_;
  const std::ptrdiff_t width_;  // of a row in a slot; what a panel writes behind the last unit stays in it
  float* given_;
  float* made_;
  float* const cell_;
  float* own_ = nullptr;  // the direction's part of what is made
  std::ptrdiff_t part_ = 0;
};

}  // namespace
}  // namespace torchpool::kernels
