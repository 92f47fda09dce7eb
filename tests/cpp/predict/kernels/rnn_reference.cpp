#include "predict/kernels/rnn_reference.h"

#include <algorithm>
#include <numeric>

namespace torchpool::kernels {

namespace {

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

// One row, one layer, one direction.
class Unrolled {
 public:
  Unrolled(const Net& net, std::size_t part, std::ptrdiff_t inputs)
      : net_(net), parameters_(&net.parameters[part * 4]), inputs_(inputs) {}

  void step(const std::vector<double>& x, std::vector<double>& h, std::vector<double>& c) const {
    const auto hidden = static_cast<std::size_t>(net_.model.hidden);
    const std::vector<double> before = h;
    for (std::size_t u = 0; u < hidden; ++u) {
      const auto both = [&](std::size_t gate) { return of_input(gate, u, x) + of_state(gate, u, before); };
      switch (net_.model.kind) {
        case RnnKind::kLstm:
          c[u] = sigmoid(both(1)) * c[u] + sigmoid(both(0)) * std::tanh(both(2));
          h[u] = sigmoid(both(3)) * std::tanh(c[u]);
          break;
        case RnnKind::kGru: {
          const double update = sigmoid(both(1));
          const double candidate = std::tanh(of_input(2, u, x) + sigmoid(both(0)) * of_state(2, u, before));
          h[u] = (1 - update) * candidate + update * before[u];
          break;
        }
        case RnnKind::kTanh:
          h[u] = std::tanh(both(0));
          break;
      }
    }
  }

 private:
  double of_input(std::size_t gate, std::size_t unit, const std::vector<double>& x) const {
    return sum(0, gate, unit, x, static_cast<std::size_t>(inputs_));
  }
  double of_state(std::size_t gate, std::size_t unit, const std::vector<double>& h) const {
    return sum(1, gate, unit, h, static_cast<std::size_t>(net_.model.hidden));
  }
  double sum(std::size_t which, std::size_t gate, std::size_t unit, const std::vector<double>& x,
             std::size_t width) const {
    const std::size_t row = gate * static_cast<std::size_t>(net_.model.hidden) + unit;
    double total = parameters_[2 + which][row];
    for (std::size_t k = 0; k < width; ++k) total += static_cast<double>(parameters_[which][row * width + k]) * x[k];
    return total;
  }

  const Net& net_;
  const std::vector<float>* parameters_;
  const std::ptrdiff_t inputs_;
};

}  // namespace

Result run_reference(const Net& net, const Case& one) {
  const RnnModel& m = net.model;
  const auto hidden = static_cast<std::size_t>(m.hidden);
  const auto rows = static_cast<std::size_t>(one.rows);
  const auto steps = static_cast<std::size_t>(one.steps);
  const auto directions = static_cast<std::size_t>(m.directions);
  const auto parts = static_cast<std::size_t>(m.layers * m.directions);
  Result result;
  result.output.assign(rows * steps * directions * hidden, 0.0F);
  result.hidden.resize(parts * rows * hidden);
  result.cell.resize(m.kind == RnnKind::kLstm ? parts * rows * hidden : 0);
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t length = one.lengths.empty() ? steps : static_cast<std::size_t>(one.lengths[row]);
    std::vector<std::vector<double>> given(length);
    for (std::size_t t = 0; t < length; ++t) {
      const float* x = one.input.data() + (row * steps + t) * static_cast<std::size_t>(m.input);
      given[t].assign(x, x + m.input);
    }
    for (std::size_t part = 0; part < parts; part += directions) {
      std::vector<std::vector<double>> made(length, std::vector<double>(directions * hidden));
      for (std::size_t d = 0; d < directions; ++d) {
        const Unrolled unrolled(net, part + d, part == 0 ? m.input : m.directions * m.hidden);
        const std::size_t state = ((part + d) * rows + row) * hidden;
        std::vector<double> h(hidden);
        std::vector<double> c(hidden);
        if (!one.first_hidden.empty()) std::copy_n(one.first_hidden.data() + state, hidden, h.data());
        if (!one.first_cell.empty()) std::copy_n(one.first_cell.data() + state, hidden, c.data());
        for (std::size_t s = 0; s < length; ++s) {
          const std::size_t t = d == 0 ? s : length - 1 - s;
          unrolled.step(given[t], h, c);
          std::copy(h.begin(), h.end(), made[t].begin() + static_cast<std::ptrdiff_t>(d * hidden));
        }
        for (std::size_t u = 0; u < hidden; ++u) {
          result.hidden[state + u] = static_cast<float>(h[u]);
          if (m.kind == RnnKind::kLstm) result.cell[state + u] = static_cast<float>(c[u]);
        }
      }
      given = std::move(made);
    }
    for (std::size_t t = 0; t < length; ++t) {
      for (std::size_t u = 0; u < directions * hidden; ++u) {
        result.output[(row * steps + t) * directions * hidden + u] = static_cast<float>(given[t][u]);
      }
    }
  }
  return result;
}

Result run_kernel(Isa isa, const Net& net, const Case& one) {
  RnnModel model = net.model;
  model.weights = net.directions.data();
  const std::ptrdiff_t width = model.directions * model.hidden;
  const auto states = static_cast<std::size_t>(model.layers * width * one.rows);
  Result result;
  result.output.assign(static_cast<std::size_t>(one.rows * one.steps * width), -7.0F);
  result.hidden.assign(states, -7.0F);
  result.cell.assign(model.kind == RnnKind::kLstm ? states : 0, -7.0F);
  std::vector<std::int64_t> order(static_cast<std::size_t>(one.rows));
  std::iota(order.begin(), order.end(), 0);
  std::vector<std::int64_t> lengths;
  if (!one.lengths.empty()) {
    const auto length = [&](std::int64_t row) { return one.lengths[static_cast<std::size_t>(row)]; };
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return length(a) > length(b); });
    for (const std::int64_t row : order) lengths.push_back(length(row));
  }
  RnnCall call;
  call.rows = call.all_rows = one.rows;
  call.steps = one.steps;
  call.input = one.input.data();
  call.input_row = one.steps * model.input;
  call.input_step = model.input;
  call.first_hidden = one.first_hidden.empty() ? nullptr : one.first_hidden.data();
  call.first_cell = one.first_cell.empty() ? nullptr : one.first_cell.data();
  call.output = result.output.data();
  call.output_row = one.steps * width;
  call.output_step = width;
  call.last_hidden = result.hidden.data();
  call.last_cell = result.cell.data();
  if (!lengths.empty()) {
    call.lengths = lengths.data();
    call.order = order.data();
  }
  // Full of what no result may show.
  std::vector<float> scratch(static_cast<std::size_t>(rnn_scratch(model, one.rows, one.steps)), NAN);
  run_rnn(isa, model, call, scratch.data());
  return result;
}

}  // namespace torchpool::kernels
