#include "predict/batch/row_lengths.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace torchpool {
namespace {

using Lengths = std::vector<std::int64_t>;

// Calls of one row, two and one, along two symbols.
struct RowLengthsTest : ::testing::Test {
  std::vector<CallShape> shapes{{1, {3, 7}}, {2, {5, 6}}, {1, {0, 7}}};
  std::vector<Member> members{{nullptr, &shapes[0]}, {nullptr, &shapes[1]}, {nullptr, &shapes[2]}};
  std::vector<std::int64_t> padded_to{5, 7};
};

TEST_F(RowLengthsTest, AreThoseOfTheCallsForEachRow) {
  const RowLengths scope(members, padded_to);
  EXPECT_EQ(RowLengths::of(0, 4, 5), (Lengths{3, 5, 5, 0}));
  EXPECT_EQ(RowLengths::of(1, 4, 7), (Lengths{7, 6, 6, 7}));
}

TEST_F(RowLengthsTest, AreWholeForOtherBatches) {
  EXPECT_EQ(RowLengths::of(0, 2, 5), (Lengths{5, 5}));
  {
    const RowLengths scope(members, padded_to);
    EXPECT_EQ(RowLengths::of(0, 3, 5), (Lengths{5, 5, 5}));
    EXPECT_EQ(RowLengths::of(0, 4, 6), (Lengths{6, 6, 6, 6}));
    EXPECT_EQ(RowLengths::of(2, 4, 5), (Lengths{5, 5, 5, 5}));
    EXPECT_EQ(RowLengths::of(-1, 4, 5), (Lengths{5, 5, 5, 5}));
  }
  EXPECT_EQ(RowLengths::of(0, 4, 5), (Lengths{5, 5, 5, 5}));
}

TEST_F(RowLengthsTest, AreOfTheInnermostScopeOfAThread) {
  const RowLengths scope(members, padded_to);
  {
    const std::vector<Member> one{members[0]};
    const std::vector<std::int64_t> own{3, 7};
    const RowLengths inner(one, own);
    EXPECT_EQ(RowLengths::of(0, 4, 5), (Lengths{5, 5, 5, 5}));
  }
  EXPECT_EQ(RowLengths::of(0, 4, 5), (Lengths{3, 5, 5, 0}));
  std::thread([] { EXPECT_EQ(RowLengths::of(0, 4, 5), (Lengths{5, 5, 5, 5})); }).join();
}

}  // namespace
}  // namespace torchpool
