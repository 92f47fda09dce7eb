// From the outputs of one batch to the outputs of each of its calls.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "predict/batch/contract.h"

namespace torchpool {

// Why `outputs` are not those of a batch of `rows` rows, padded to `padded_to`, in words: their number, their sizes
// along the rows or along what is trimmed. Empty when they are.
std::optional<std::string> misfit(const Contract& contract, const std::vector<at::Tensor>& outputs, std::int64_t rows,
                                  const std::vector<std::int64_t>& padded_to);

// Throws torchpool::Error with that text.
void check_outputs(const Contract& contract, const std::vector<at::Tensor>& outputs, std::int64_t rows,
                   const std::vector<std::int64_t>& padded_to);

// Takes the outputs of one batch of `rows` rows apart. Requires: no misfit; what it is given outlives it.
class Splitter {
 public:
  Splitter(const Contract& contract, std::vector<at::Tensor>& outputs, const std::vector<std::int64_t>& padded_to,
           std::int64_t rows);
  // The outputs of the call that holds rows [row, row + shape.rows): trimmed to its own lengths, ordinary tensors that
  // share memory with nothing else, so that a kept result never keeps its batch alive. A call that is the whole batch
  // gets outputs without a copy where nobody else refers to them, unless the contract says that the model keeps them.
  std::vector<at::Tensor> part(const CallShape& shape, std::int64_t row);

 private:
  at::Tensor part_of(std::size_t output, const CallShape& shape, std::int64_t row);
  at::Tensor folded_part(std::size_t output, const CallShape& shape, std::int64_t unit, std::int64_t units);

  const Contract& contract_;
  std::vector<at::Tensor>& outputs_;
  const std::vector<std::int64_t>& padded_to_;
  const std::int64_t rows_;
  // Outputs that fold rows behind other dims, with the units first: [units, ..., outer, inner, ...]. Made once for all
  // calls of a batch: 128 calls of a time-major LSTM (50 x 128 x 3) take 0.1 ms so, and 0.7 ms by a gather each.
  std::vector<at::Tensor> by_unit_;
};

// As Splitter, for one call.
std::vector<at::Tensor> split(const Contract& contract, std::vector<at::Tensor>& outputs, const CallShape& shape,
                              const std::vector<std::int64_t>& padded_to, std::int64_t row, std::int64_t rows);

// The outputs of one call that ran in parts of `rows` rows, in order. Empty when they do not fit together. Requires: no
// misfit in any of the parts, and none of the contract's outputs is stacked or lacks a batch dim.
std::optional<std::vector<at::Tensor>> join(const Contract& contract, const std::vector<std::vector<at::Tensor>>& parts,
                                            const std::vector<std::int64_t>& rows);

// `output` itself, or a copy where somebody else refers to its memory.
at::Tensor own(at::Tensor output, bool kept);

}  // namespace torchpool
