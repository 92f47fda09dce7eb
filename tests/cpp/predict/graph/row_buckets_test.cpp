#include "predict/graph/row_buckets.h"

#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <gtest/gtest.h>

#include <set>

namespace torchpool::graph {
namespace {

TEST(RowBuckets, RoundUpByAnEighthAtMostAndOnlyToFewSizes) {
  std::set<std::int64_t> sizes;
  for (std::int64_t rows = 1; rows <= 1024; ++rows) {
    const std::int64_t rounded = RowBuckets::rounded_up(rows);
    EXPECT_GE(rounded, rows);
    if (rows > 16) {
      EXPECT_LE((rows > 64 ? 8 : 4) * (rounded - rows), rows);
    }
    EXPECT_EQ(RowBuckets::rounded_up(rounded), rounded);
    sizes.insert(rounded);
  }
  EXPECT_EQ(sizes.size(), 3 + 2 * 4 + 4 * 8);
  EXPECT_EQ(RowBuckets::rounded_up(0), 0);
}

TEST(RowBuckets, FirstSizesStayAsTheyAre) {
  RowBuckets buckets;
  for (int again = 0; again < 2; ++again) {
    for (const std::int64_t rows : {101, 102, 103, 105}) EXPECT_EQ(buckets.bucket(rows), rows);
  }
  EXPECT_EQ(buckets.bucket(109), 112);
  EXPECT_EQ(buckets.bucket(7), 8);
  EXPECT_EQ(buckets.bucket(103), 103);
  EXPECT_EQ(buckets.bucket(1), 1);
}

TEST(WithRows, AddsZeros) {
  const at::Tensor input = at::rand({3, 2, 4}).transpose(0, 1);  // not contiguous
  const at::Tensor matrix = with_rows(input, 8);
  EXPECT_TRUE(matrix.narrow(0, 0, 6).equal(input.reshape({6, 4})));
  EXPECT_TRUE(matrix.narrow(0, 6, 2).equal(at::full({2, 4}, 0.0)));
  EXPECT_TRUE(without_added_rows(matrix, {2, 3, 9}).equal(input));
}

TEST(WithRows, TakesTheRoomThatIsThere) {
  const at::Tensor whole = at::rand({8, 4});
  const at::Tensor input = whole.narrow(0, 1, 5);
  EXPECT_EQ(with_rows(input, 7).data_ptr(), input.data_ptr());
  EXPECT_NE(with_rows(input, 8).data_ptr(), input.data_ptr()) << "one row more than there is";
  EXPECT_TRUE(without_added_rows(with_rows(input, 7), {5, 4}).equal(input));
}

}  // namespace
}  // namespace torchpool::graph
