// A recurrent net's weights as the kernels read them.
#pragma once

#include <cstddef>
#include <vector>

#include "predict/kernels/isa.h"
#include "predict/kernels/rnn.h"

namespace torchpool::kernels {

// Floats of the packed weights of a net; `model.weights` is not read.
std::ptrdiff_t packed_size(const RnnModel& model) noexcept;

// `parameters` are nn.RNNBase's, contiguous, of each layer and direction: weights of the input and of the state, and
// the two biases, which may be null. `packed` has packed_size(model) floats.
void pack_rnn(const RnnModel& model, const std::vector<const float*>& parameters, float* packed);

// Where in packed weights those of each layer and direction are.
std::vector<RnnDirection> packed_directions(const RnnModel& model, const float* packed);

// The kernel of that instruction set, or of the best below it that this file was built with.
void run_rnn(Isa isa, const RnnModel& model, const RnnCall& call, float* scratch);

}  // namespace torchpool::kernels
