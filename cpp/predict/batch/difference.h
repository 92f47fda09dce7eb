// Whether two results of one call differ by more than rounding.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "predict/batch/contract.h"

namespace torchpool {

// How far results may be apart, as a share of the largest value, that come from batches of different sizes: what the
// coarsest dtype of the tensors rounds. Integers and bools round nothing.
double rounding_of(const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& outputs);

// The largest absolute value of each tensor that is finite.
std::vector<double> largest_finite(const std::vector<at::Tensor>& tensors);

// What differs, in words, or nothing: numbers, shapes, dtypes, values by more than `rounding` of the largest one or of
// `largest` (per output), places of what is not finite.
std::optional<std::string> difference(const Contract& contract, const std::vector<at::Tensor>& alone,
                                      const std::vector<at::Tensor>& in_batch, const std::vector<double>& largest,
                                      double rounding);

}  // namespace torchpool
