#include "predict/batch/contract.h"

#include "predict/test_support.h"

namespace torchpool::testing {
namespace {

using Kind = Mismatch::Kind;

Mismatch mismatch_of(const Contract& contract, const std::vector<at::Tensor>& call) {
  CallShape shape;
  const auto mismatch = contract.fit(call, shape);
  EXPECT_TRUE(mismatch.has_value());
  return mismatch.value_or(Mismatch{});
}

RequestInfo info_of(const Contract& contract, const std::vector<at::Tensor>& call, std::uint64_t ambient = 0) {
  CallShape shape;
  EXPECT_FALSE(contract.fit(call, shape));
  return contract.request_info(call, shape, ambient);
}

TEST(Contract, CountsRowsOfACallThatFits) {
  CallShape shape;
  EXPECT_FALSE(row_contract(10).fit({at::zeros({3, 10})}, shape));
  EXPECT_EQ(shape.rows, 3);
}

TEST(Contract, NamesWhatDoesNotFit) {
  const Contract contract = row_contract(10);
  EXPECT_EQ(mismatch_of(contract, {at::zeros({1, 10}, at::kDouble)}).kind, Kind::kDtype);
  EXPECT_EQ(mismatch_of(contract, {at::zeros({10})}).kind, Kind::kRank);
  EXPECT_EQ(mismatch_of(contract, {at::zeros({0, 10})}).kind, Kind::kEmpty);
  const Mismatch fixed_dim = mismatch_of(contract, {at::zeros({1, 11})});
  EXPECT_EQ(fixed_dim.kind, Kind::kFixedDim);
  EXPECT_EQ(fixed_dim.dim, 1);
  EXPECT_EQ(fixed_dim.message, "input 'x' has size 11 in dim 1 (shape [1, 11]), expected 10");
}

TEST(Contract, RefusesInputsOfUnequalRowsOrLengths) {
  Contract contract = row_contract(10);
  contract.inputs.push_back(float_input({batch(), fixed(2)}));
  EXPECT_EQ(mismatch_of(contract, {at::zeros({2, 10}), at::zeros({3, 2})}).kind, Kind::kUnequalRows);
  contract.inputs = {float_input({batch(), symbol(0)}), float_input({batch(), symbol(0)})};
  contract.padded = {true};
  EXPECT_EQ(mismatch_of(contract, {at::zeros({2, 4}), at::zeros({2, 5})}).kind, Kind::kUnequalLength);
}

TEST(Contract, LengthsAreInTheKeyUnlessPadded) {
  Contract contract;
  contract.inputs = {float_input({batch(), symbol(0)})};
  contract.outputs = {rows_output()};
  contract.padded = {false};
  EXPECT_NE(info_of(contract, {at::zeros({1, 4})}).key, info_of(contract, {at::zeros({1, 5})}).key);
  contract.padded = {true};
  EXPECT_EQ(info_of(contract, {at::zeros({1, 4})}).key, info_of(contract, {at::zeros({1, 5})}).key);
  EXPECT_EQ(info_of(contract, {at::zeros({1, 5})}).length, 5);
}

// Of what is left over nobody knows how much belongs to a shorter call.
TEST(Contract, PaddedLengthsAreInTheKeyWhereAnOutputTakesWhatIsLeft) {
  Contract contract;
  contract.inputs = {float_input({batch(), symbol(0)})};
  contract.outputs = {rows_output()};
  contract.padded = {true};
  for (std::int64_t OutputSpec::* fold : {&OutputSpec::outer, &OutputSpec::inner}) {
    contract.outputs[0].*fold = 0;
    EXPECT_NE(info_of(contract, {at::zeros({1, 4})}).key, info_of(contract, {at::zeros({1, 5})}).key);
    contract.outputs[0].trims = {{0, 0, 1, 0}};  // now it is said
    EXPECT_EQ(info_of(contract, {at::zeros({1, 4})}).key, info_of(contract, {at::zeros({1, 5})}).key);
    contract.outputs[0].trims.clear();
    contract.outputs[0].*fold = 2;
    EXPECT_EQ(info_of(contract, {at::zeros({1, 4})}).key, info_of(contract, {at::zeros({1, 5})}).key);
    contract.outputs[0].*fold = 1;
  }
}

TEST(Contract, ACallOfAnotherNumberOfRowsFitsButSharesNoBatch) {
  Contract contract = row_contract(10);
  CallShape shape;
  ASSERT_FALSE(contract.fit({at::zeros({3, 10})}, shape));
  EXPECT_TRUE(contract.may_share(shape));
  EXPECT_EQ(contract.units(12), 12);
  contract.call_rows = 4;
  ASSERT_FALSE(contract.fit({at::zeros({3, 10})}, shape));
  EXPECT_FALSE(contract.may_share(shape));
  ASSERT_FALSE(contract.fit({at::zeros({4, 10})}, shape));
  EXPECT_TRUE(contract.may_share(shape));
  EXPECT_EQ(contract.units(12), 3);
}

TEST(Contract, AmbientStateAndContractSeparateKeys) {
  const Contract one = row_contract(10);
  const Contract other = row_contract(10);
  const std::vector<at::Tensor> call{at::zeros({1, 10})};
  EXPECT_NE(info_of(one, call).key, info_of(other, call).key);
  EXPECT_NE(info_of(one, call).key, info_of(one, call, 1).key);
}

TEST(Contract, SmallSharedInputsMergeByContent) {
  Contract contract = row_contract(10);
  contract.inputs.push_back(float_input({fixed(4)}, std::nullopt));
  const at::Tensor x = at::zeros({1, 10});
  const at::Tensor ones = at::ones({4});
  EXPECT_EQ(info_of(contract, {x, ones}).key, info_of(contract, {x, at::ones({4})}).key);
  EXPECT_NE(info_of(contract, {x, ones}).key, info_of(contract, {x, at::zeros({4})}).key);
  EXPECT_EQ(info_of(contract, {x, at::ones({4, 2}).select(1, 0)}).key, info_of(contract, {x, ones}).key);
}

TEST(Contract, LargeSharedInputsMergeByIdentityAndVersion) {
  Contract contract = row_contract(10);
  const std::int64_t large = 64 * 1024;
  contract.inputs.push_back(float_input({fixed(large)}, std::nullopt));
  const at::Tensor x = at::zeros({1, 10});
  const at::Tensor table = at::ones({large});
  const MergeKey key = info_of(contract, {x, table}).key;
  EXPECT_EQ(info_of(contract, {x, table}).key, key);
  EXPECT_NE(info_of(contract, {x, table.clone()}).key, key);
  table.add_(1);
  EXPECT_NE(info_of(contract, {x, table}).key, key);
}

}  // namespace
}  // namespace torchpool::testing
