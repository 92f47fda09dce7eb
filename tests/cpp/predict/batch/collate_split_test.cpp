#include "predict/batch/collate.h"
#include "predict/batch/split.h"

#include "core/sync/error.h"
#include "predict/test_support.h"

namespace torchpool::testing {
namespace {

struct Call {
  std::vector<at::Tensor> inputs;
  CallShape shape;
};

Call call_of(const Contract& contract, std::vector<at::Tensor> inputs) {
  Call call{std::move(inputs), {}};
  EXPECT_FALSE(contract.fit(call.inputs, call.shape));
  return call;
}

std::vector<Member> members_of(const std::vector<Call>& calls) {
  std::vector<Member> members;
  for (const Call& call : calls) members.push_back({&call.inputs, &call.shape});
  return members;
}

TEST(Collate, ConcatenatesAlongTheBatchDim) {
  Contract contract;
  contract.inputs = {float_input({fixed(2), batch(), fixed(3)}, 1)};
  const std::vector<Call> calls{call_of(contract, {at::rand({2, 1, 3})}), call_of(contract, {at::rand({2, 4, 3})})};
  std::vector<std::int64_t> lengths;
  const auto merged = collate(contract, members_of(calls), lengths);
  EXPECT_TRUE(at::equal(merged[0], at::cat({calls[0].inputs[0], calls[1].inputs[0]}, 1)));
}

TEST(Collate, StacksCallsWithoutABatchDim) {
  Contract contract;
  contract.inputs = {float_input({fixed(3)})};
  contract.inputs[0].stacked = true;
  const std::vector<Call> calls{call_of(contract, {at::rand({3})}), call_of(contract, {at::rand({3})})};
  std::vector<std::int64_t> lengths;
  EXPECT_TRUE(
      at::equal(collate(contract, members_of(calls), lengths)[0], at::stack({calls[0].inputs[0], calls[1].inputs[0]})));
  EXPECT_EQ(collate(contract, {members_of(calls)[0]}, lengths)[0].sizes(), (std::vector<std::int64_t>{1, 3}));
}

TEST(Collate, PadsShorterCallsOnTheRight) {
  Contract contract;
  contract.inputs = {float_input({batch(), symbol(0)})};
  contract.inputs[0].pad = -1.0;
  contract.padded = {true};
  const std::vector<Call> calls{call_of(contract, {at::ones({2, 3})}), call_of(contract, {at::ones({1, 5})})};
  std::vector<std::int64_t> lengths;
  const at::Tensor merged = collate(contract, members_of(calls), lengths)[0];
  EXPECT_EQ(lengths, (std::vector<std::int64_t>{5}));
  EXPECT_EQ(merged.sizes(), (std::vector<std::int64_t>{3, 5}));
  EXPECT_TRUE(at::equal(merged.narrow(0, 0, 2).narrow(1, 3, 2), at::full({2, 2}, -1.0)));
  EXPECT_TRUE(at::equal(merged.narrow(0, 2, 1), at::ones({1, 5})));
}

TEST(Split, TrimsEachCallToItsOwnLength) {
  Contract contract;
  contract.inputs = {float_input({batch(), symbol(0)})};
  contract.outputs = {rows_output({{1, 0, 2, 1}})};
  contract.padded = {true};
  const Call shorter = call_of(contract, {at::ones({2, 3})});
  std::vector<at::Tensor> outputs{at::rand({3, 11})};  // 2 * 5 + 1
  const at::Tensor before = outputs[0].clone();
  const auto own = split(contract, outputs, shorter.shape, {5}, 0, 3);
  EXPECT_TRUE(at::equal(own[0], before.narrow(0, 0, 2).narrow(1, 0, 7)));
}

TEST(Split, ResultsShareMemoryWithNobodyAndKeepNoBatchAlive) {
  const Contract contract = row_contract(4);
  const Call call = call_of(contract, {at::ones({1, 4})});
  std::vector<at::Tensor> outputs{at::rand({100, 3})};
  const auto own = split(contract, outputs, call.shape, {}, 7, 100);
  EXPECT_TRUE(at::equal(own[0], outputs[0].narrow(0, 7, 1)));
  EXPECT_FALSE(own[0].is_alias_of(outputs[0]));
  EXPECT_EQ(own[0].storage().nbytes(), 3 * sizeof(float));
}

TEST(Split, HandsOverAWholeOutputThatNobodyElseHolds) {
  const Contract contract = row_contract(4);
  const Call call = call_of(contract, {at::ones({2, 4})});
  std::vector<at::Tensor> outputs{at::rand({2, 3})};
  const void* memory = outputs[0].const_data_ptr();
  EXPECT_EQ(split(contract, outputs, call.shape, {}, 0, 2)[0].const_data_ptr(), memory);
  const at::Tensor kept = at::rand({2, 3});
  outputs = {kept};
  EXPECT_FALSE(split(contract, outputs, call.shape, {}, 0, 2)[0].is_alias_of(kept));
}

TEST(Split, DropsTheBatchDimOfStackedCalls) {
  Contract contract;
  contract.inputs = {float_input({fixed(3)})};
  contract.inputs[0].stacked = true;
  contract.outputs = {rows_output()};
  contract.outputs[0].stacked = true;
  const Call call = call_of(contract, {at::rand({3})});
  std::vector<at::Tensor> outputs{at::rand({4, 5})};
  EXPECT_TRUE(at::equal(split(contract, outputs, call.shape, {}, 2, 4)[0], outputs[0].select(0, 2)));
}

TEST(CheckOutputs, NamesBothNumbersOfAMismatch) {
  const Contract contract = row_contract(4);
  EXPECT_NO_THROW(check_outputs(contract, {at::zeros({6, 1})}, 6, {}));
  EXPECT_THROW(check_outputs(contract, {}, 6, {}), Error);
  EXPECT_THROW(check_outputs(contract, {at::zeros({6})[0]}, 6, {}), Error);
  try {
    check_outputs(contract, {at::zeros({5, 1})}, 6, {});
    FAIL() << "5 rows were taken for 6";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("[5, 1]"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("6 rows"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace torchpool::testing
