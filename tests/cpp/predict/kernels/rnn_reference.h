// Recurrent nets as their definitions say, in double precision.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "predict/kernels/rnn_packed.h"

namespace torchpool::kernels {

// A net with random parameters.
struct Net {
  RnnModel model;
  std::vector<std::vector<float>> parameters;  // of each layer and direction: two weights, two biases
  std::vector<float> packed;
  std::vector<RnnDirection> directions;

  std::ptrdiff_t gates() const { return model.kind == RnnKind::kLstm ? 4 : model.kind == RnnKind::kGru ? 3 : 1; }
};

inline std::vector<float> drawn(std::size_t count, float reach, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-reach, reach);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(generator);
  return values;
}

inline Net make_net(RnnKind kind, std::ptrdiff_t input, std::ptrdiff_t hidden, std::ptrdiff_t layers,
                    std::ptrdiff_t directions, bool biases = true) {
  Net net;
  net.model = {.kind = kind, .input = input, .hidden = hidden, .layers = layers, .directions = directions};
  const auto reach = static_cast<float>(1.0 / std::sqrt(static_cast<double>(hidden)));
  std::vector<const float*> given;
  unsigned seed = 1;
  for (std::ptrdiff_t layer = 0; layer < layers; ++layer) {
    const std::ptrdiff_t inputs = layer == 0 ? input : directions * hidden;
    for (std::ptrdiff_t direction = 0; direction < directions; ++direction) {
      for (const std::ptrdiff_t width : {inputs, hidden, std::ptrdiff_t{1}, std::ptrdiff_t{1}}) {
        net.parameters.push_back(drawn(static_cast<std::size_t>(net.gates() * hidden * width), reach, seed++));
      }
    }
  }
  for (std::size_t i = 0; i < net.parameters.size(); ++i) {
    if (!biases && i % 4 >= 2) net.parameters[i].assign(net.parameters[i].size(), 0.0F);
    given.push_back(!biases && i % 4 >= 2 ? nullptr : net.parameters[i].data());
  }
  net.packed.resize(static_cast<std::size_t>(packed_size(net.model)));
  pack_rnn(net.model, given, net.packed.data());
  net.directions = packed_directions(net.model, net.packed.data());
  return net;
}

// A call's tensors: input and output are [row][step][...].
struct Case {
  std::ptrdiff_t rows = 1;
  std::ptrdiff_t steps = 1;
  std::vector<float> input;
  std::vector<float> first_hidden, first_cell;  // empty: zeros
  std::vector<std::int64_t> lengths;            // of each row; empty: all steps
};

struct Result {
  std::vector<float> output, hidden, cell;
};

Result run_kernel(Isa isa, const Net& net, const Case& one);
Result run_reference(const Net& net, const Case& one);

}  // namespace torchpool::kernels
