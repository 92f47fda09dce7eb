// From the inputs of several calls to the inputs of one batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "predict/batch/contract.h"

namespace torchpool {

// One call's part of a batch. Both pointees outlive the collating.
struct Member {
  const std::vector<at::Tensor>* inputs = nullptr;
  const CallShape* shape = nullptr;
};

// The batch's inputs, in the contract's order: concatenated along the batch dim (or stacked), shorter calls padded on
// the right. A batch of one call gets that call's own tensors (with a batch dim put before where calls are stacked).
// Requires: all members fit `contract` and have equal merge keys. `padded_to` receives the batch's lengths.
std::vector<at::Tensor> collate(const Contract& contract, const std::vector<Member>& members,
                                std::vector<std::int64_t>& padded_to);

}  // namespace torchpool
