// Outputs whose batch dim holds rows folded with other dims: outer x units x inner.
#include <ATen/ATen.h>

#include "predict/batch/split.h"
#include "predict/test_support.h"

namespace torchpool::testing {
namespace {

struct Layout {
  std::int64_t dim = 0;
  std::int64_t outer = 1;
  std::int64_t inner = 1;
  bool outer_open = false;
  bool inner_open = false;
};

// An output whose entry (o, u, i) is o, u and i as one number, beside a dim of 3.
at::Tensor numbered(const Layout& layout, std::int64_t first, std::int64_t units) {
  at::Tensor entries = (at::arange(layout.outer).mul(10'000).view({-1, 1, 1}) +
                        at::arange(first, first + units).mul(100).view({1, -1, 1}) + at::arange(layout.inner))
                           .flatten();
  entries = at::stack({entries, entries + 0.25, entries + 0.5}, 1);
  return layout.dim == 0 ? entries : entries.t().contiguous();
}

Contract contract_of(const Layout& layout, std::optional<std::int64_t> call_rows = std::nullopt) {
  Contract contract = row_contract(4);
  contract.outputs[0].batch_dim = layout.dim;
  contract.outputs[0].outer = layout.outer_open ? 0 : layout.outer;
  contract.outputs[0].inner = layout.inner_open ? 0 : layout.inner;
  contract.call_rows = call_rows;
  return contract;
}

CallShape shape_of(std::int64_t rows) {
  CallShape shape;
  shape.rows = rows;
  return shape;
}

std::string named(const ::testing::TestParamInfo<Layout>& info) {
  const Layout& layout = info.param;
  return "dim" + std::to_string(layout.dim) + "_" + (layout.outer_open ? "open" : "outer") +
         std::to_string(layout.outer) + "_" + (layout.inner_open ? "open" : "inner") + std::to_string(layout.inner);
}

class FoldTest : public ::testing::TestWithParam<Layout> {};

TEST_P(FoldTest, EachCallGetsItsOwnEntriesInMemoryOfItsOwn) {
  const Contract contract = contract_of(GetParam());
  std::vector<at::Tensor> outputs{numbered(GetParam(), 0, 6)};
  ASSERT_EQ(misfit(contract, outputs, 6, {}), std::nullopt);
  std::int64_t row = 0;
  for (const std::int64_t rows : {1, 3, 2}) {
    const at::Tensor own = split(contract, outputs, shape_of(rows), {}, row, 6).at(0);
    EXPECT_TRUE(at::equal(own, numbered(GetParam(), row, rows))) << "rows " << row << " to " << row + rows;
    EXPECT_TRUE(own.is_contiguous());
    EXPECT_EQ(own.storage().nbytes(), own.nbytes());
    row += rows;
  }
}

TEST_P(FoldTest, AViewIsSplitAsItsCopyIs) {
  const Contract contract = contract_of(GetParam());
  std::vector<at::Tensor> outputs{numbered(GetParam(), 0, 5).t().contiguous().t()};
  const at::Tensor own = split(contract, outputs, shape_of(2), {}, 1, 5).at(0);
  EXPECT_TRUE(at::equal(own, numbered(GetParam(), 1, 2)));
}

TEST_P(FoldTest, AWholeOutputIsHandedOver) {
  const Contract contract = contract_of(GetParam());
  std::vector<at::Tensor> outputs{numbered(GetParam(), 0, 4).clone()};
  const void* memory = outputs[0].const_data_ptr();
  EXPECT_EQ(split(contract, outputs, shape_of(4), {}, 0, 4).at(0).const_data_ptr(), memory);
}

TEST_P(FoldTest, PartsAreJoinedInTheFoldedOrder) {
  const Contract contract = contract_of(GetParam());
  const auto joined = join(
      contract, {{numbered(GetParam(), 0, 3)}, {numbered(GetParam(), 3, 3)}, {numbered(GetParam(), 6, 1)}}, {3, 3, 1});
  ASSERT_TRUE(joined);
  EXPECT_TRUE(at::equal(joined->at(0), numbered(GetParam(), 0, 7)));
}

TEST_P(FoldTest, CallsOfSeveralRowsAreUnitsWhereTheContractCountsCalls) {
  const Contract contract = contract_of(GetParam(), 4);
  std::vector<at::Tensor> outputs{numbered(GetParam(), 0, 3)};
  ASSERT_EQ(misfit(contract, outputs, 12, {}), std::nullopt);
  for (std::int64_t call = 0; call < 3; ++call) {
    const at::Tensor own = split(contract, outputs, shape_of(4), {}, 4 * call, 12).at(0);
    EXPECT_TRUE(at::equal(own, numbered(GetParam(), call, 1)));
  }
}

// Calls of other lengths in one batch, where the length is what is left of the fold.
class OpenFoldTest : public ::testing::TestWithParam<Layout> {};

TEST_P(OpenFoldTest, WhatWasPaddedIsCutOffWithinTheFold) {
  const Layout& padded = GetParam();
  const std::int64_t longest = padded.outer_open ? padded.outer : padded.inner;
  Contract contract = contract_of(padded);
  contract.padded = {true};
  contract.outputs[0].trims = {{padded.dim, 0, 2, 1}};
  for (const bool also_beside : {false, true}) {
    if (also_beside) contract.outputs[0].trims.push_back({1 - padded.dim, 0, 1, 1});
    std::vector<at::Tensor> outputs{numbered(padded, 0, 6)};
    const std::vector<std::int64_t> padded_to{(longest - 1) / 2};
    if (2 * padded_to[0] + 1 != longest || (also_beside && padded_to[0] + 1 != 3)) continue;
    ASSERT_EQ(misfit(contract, outputs, 6, padded_to), std::nullopt);
    EXPECT_NE(misfit(contract, outputs, 6, {longest}), std::nullopt);
    std::int64_t row = 0;
    for (const std::int64_t rows : {1, 3, 2}) {
      for (std::int64_t length = 0; length <= padded_to[0]; ++length) {
        CallShape shape = shape_of(rows);
        shape.lengths = {length};
        Layout own_layout = padded;
        (padded.outer_open ? own_layout.outer : own_layout.inner) = 2 * length + 1;
        at::Tensor own = numbered(own_layout, row, rows);
        if (also_beside) own = own.narrow(1 - padded.dim, 0, length + 1);
        const at::Tensor part = split(contract, outputs, shape, padded_to, row, 6).at(0);
        EXPECT_TRUE(at::equal(part, own)) << "rows from " << row << ", length " << length;
        EXPECT_TRUE(part.is_contiguous());
        EXPECT_FALSE(part.is_alias_of(outputs[0]));
      }
      row += rows;
    }
  }
}

TEST_P(FoldTest, OtherSizesAreMisfits) {
  const Contract contract = contract_of(GetParam());
  const Layout& layout = GetParam();
  const std::int64_t size = layout.outer * layout.inner * 7;
  const at::Tensor wrong = layout.dim == 0 ? at::zeros({size + 1, 3}) : at::zeros({3, size + 1});
  EXPECT_NE(misfit(contract, {wrong}, 7, {}), std::nullopt);
  const at::Tensor empty = layout.dim == 0 ? at::zeros({0, 3}) : at::zeros({3, 0});
  EXPECT_NE(misfit(contract, {empty}, 7, {}), std::nullopt) << "an empty output is no fold, whatever is left over";
}

INSTANTIATE_TEST_SUITE_P(Layouts, FoldTest,
                         ::testing::Values(Layout{0, 1, 1}, Layout{1, 1, 1}, Layout{0, 1, 5}, Layout{1, 1, 5},
                                           Layout{0, 5, 1}, Layout{1, 5, 1}, Layout{0, 2, 3}, Layout{1, 2, 3},
                                           Layout{0, 5, 1, true}, Layout{1, 5, 2, true}, Layout{0, 1, 5, false, true},
                                           Layout{1, 2, 5, false, true}, Layout{0, 1, 1, true},
                                           Layout{0, 1, 1, false, true}),
                         named);

INSTANTIATE_TEST_SUITE_P(Layouts, OpenFoldTest,
                         ::testing::Values(Layout{0, 5, 1, true}, Layout{1, 5, 2, true}, Layout{0, 7, 3, true},
                                           Layout{0, 1, 5, false, true}, Layout{1, 2, 5, false, true},
                                           Layout{0, 3, 7, false, true}),
                         named);

TEST(Fold, AStackedOutputOfACallIsItsOwnWithoutTheDim) {
  Contract contract = contract_of({}, 4);
  contract.outputs[0].stacked = true;
  std::vector<at::Tensor> outputs{at::rand({3, 2})};
  ASSERT_EQ(misfit(contract, outputs, 12, {}), std::nullopt);
  EXPECT_NE(misfit(contract, {at::rand({12, 2})}, 12, {}), std::nullopt);
  EXPECT_TRUE(at::equal(split(contract, outputs, shape_of(4), {}, 8, 12).at(0), outputs[0].select(0, 2)));
}

TEST(Fold, PartsThatDifferInWhatIsLeftOverAreNotJoined) {
  const Contract contract = contract_of({0, 5, 1, true});
  EXPECT_EQ(join(contract, {{numbered({0, 5, 1}, 0, 2)}, {numbered({0, 3, 1}, 2, 2)}}, {2, 2}), std::nullopt);
}

}  // namespace
}  // namespace torchpool::testing
