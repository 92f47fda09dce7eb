// What the predict layer's tests share.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "core/schedule/runtime.h"
#include "predict/batch/call_request.h"
#include "predict/batch/contract.h"

namespace torchpool::testing {

inline DimSpec fixed(std::int64_t size) {
  return {DimSpec::Kind::kFixed, size};
}
inline DimSpec batch() {
  return {DimSpec::Kind::kBatch, 0};
}
inline DimSpec symbol(std::int64_t index) {
  return {DimSpec::Kind::kSymbol, index};
}

inline InputSpec float_input(std::vector<DimSpec> sizes, std::optional<std::int64_t> batch_dim = 0) {
  InputSpec spec;
  spec.name = "x";
  spec.sizes = std::move(sizes);
  spec.batch_dim = batch_dim;
  return spec;
}

inline OutputSpec rows_output(std::vector<TrimSpec> trims = {}) {
  OutputSpec spec;
  spec.name = "y";
  spec.batch_dim = 0;
  spec.trims = std::move(trims);
  return spec;
}

// x (batch, features) -> y (batch, ...)
inline Contract row_contract(std::int64_t features) {
  Contract contract;
  contract.inputs = {float_input({batch(), fixed(features)})};
  contract.outputs = {rows_output()};
  contract.identity = Contract::next_identity();
  return contract;
}

// Drops at once: these tests have no interpreter.
class PlainReclaimer : public Reclaimer {
 public:
  void reclaim(std::vector<at::Tensor> tensors) noexcept override { dropped += tensors.size(); }
  std::size_t dropped = 0;
};

class NoForm : public CallForm {};

inline std::shared_ptr<CallRequest> make_request(std::shared_ptr<const Contract> contract,
                                                 std::vector<at::Tensor> inputs, Reclaimer& reclaimer) {
  CallShape shape;
  const auto mismatch = contract->fit(inputs, shape);
  EXPECT_FALSE(mismatch) << mismatch->message;
  auto request = std::make_shared<CallRequest>(contract->request_info(inputs, shape, 0), reclaimer);
  request->contract = std::move(contract);
  request->form = std::make_shared<NoForm>();
  request->inputs = std::move(inputs);
  request->shape = std::move(shape);
  return request;
}

}  // namespace torchpool::testing
