// From the outputs of one batch to the outputs of each of its calls.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "predict/batch/contract.h"

namespace torchpool {

// Throws torchpool::Error naming both numbers when the outputs do not have the contract's count, batch dims or rows.
void check_outputs(const Contract& contract, const std::vector<at::Tensor>& outputs, std::int64_t rows);

// The outputs of the call that holds rows [row, row + shape.rows): trimmed to its own lengths, ordinary tensors that
// share memory with nothing else, so that a kept result never keeps its batch alive. `whole`: the call is the whole
// batch, so the outputs need no copy where nobody else refers to them.
std::vector<at::Tensor> split(const Contract& contract, std::vector<at::Tensor>& outputs, const CallShape& shape,
                              const std::vector<std::int64_t>& padded_to, std::int64_t row, bool whole);

}  // namespace torchpool
