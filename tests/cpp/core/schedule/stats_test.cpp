#include "core/schedule/stats.h"

#include "core/test_support.h"

namespace torchpool::testing {
namespace {

TEST(HistogramTest, EmptyHasNoQuantiles) {
  const Histogram::Snapshot empty = Histogram().snapshot();
  EXPECT_EQ(empty.count, 0u);
  EXPECT_EQ(empty.mean(), 0.0);
  EXPECT_EQ(empty.quantile(0.5), 0u);
}

TEST(HistogramTest, BucketsArePowersOfTwo) {
  Histogram histogram;
  for (const std::uint64_t value : {0U, 1U, 2U, 3U, 4U, 7U, 8U}) histogram.record(value);
  const Histogram::Snapshot snapshot = histogram.snapshot();
  EXPECT_EQ(snapshot.buckets[0], 1u);  // 0
  EXPECT_EQ(snapshot.buckets[1], 1u);  // 1
  EXPECT_EQ(snapshot.buckets[2], 2u);  // 2 3
  EXPECT_EQ(snapshot.buckets[3], 2u);  // 4 7
  EXPECT_EQ(snapshot.buckets[4], 1u);  // 8
  EXPECT_EQ(snapshot.count, 7u);
  EXPECT_EQ(snapshot.sum, 25u);
  EXPECT_EQ(snapshot.max, 8u);
  EXPECT_DOUBLE_EQ(snapshot.mean(), 25.0 / 7.0);
}

TEST(HistogramTest, QuantileIsTheUpperEdgeButNeverAboveTheLargest) {
  Histogram histogram;
  for (int i = 0; i < 90; ++i) histogram.record(3);    // [2, 4)
  for (int i = 0; i < 10; ++i) histogram.record(700);  // [512, 1024)
  const Histogram::Snapshot snapshot = histogram.snapshot();
  EXPECT_EQ(snapshot.quantile(0.0), 4u);
  EXPECT_EQ(snapshot.quantile(0.5), 4u);
  EXPECT_EQ(snapshot.quantile(0.9), 4u);
  EXPECT_EQ(snapshot.quantile(0.91), 700u);
  EXPECT_EQ(snapshot.quantile(1.0), 700u);
}

TEST(HistogramTest, LargestValuesShareTheLastBucket) {
  Histogram histogram;
  histogram.record(~std::uint64_t{0});
  EXPECT_EQ(histogram.snapshot().buckets.back(), 1u);
  EXPECT_EQ(histogram.snapshot().quantile(0.5), ~std::uint64_t{0});
}

TEST(HistogramTest, LosesNothingUnderContention) {
  Histogram histogram;
  run_threads(4, [&](int thread) {
    for (int i = 0; i < 5000; ++i) histogram.record(static_cast<std::uint64_t>(thread));
  });
  EXPECT_EQ(histogram.snapshot().count, 20000u);
  EXPECT_EQ(histogram.snapshot().sum, 5000u * (0 + 1 + 2 + 3));
  EXPECT_EQ(histogram.snapshot().max, 3u);
}

TEST(ChannelStatsTest, ResolvedAddsUpAllWaysOut) {
  ChannelStats stats;
  stats.succeeded = 1;
  stats.failed = 10;
  stats.cancelled = 100;
  stats.expired = 1000;
  stats.rejected = 5;
  EXPECT_EQ(stats.resolved(), 1111u);
}

TEST(InlineCountTest, ACallIsUnderWayUntilItsOutcomeIsKnown) {
  ChannelStats stats;
  {
    InlineCount count(stats);
    EXPECT_EQ(stats.accepted, 1u);
    EXPECT_EQ(stats.inlined, 1u);
    EXPECT_EQ(stats.resolved(), 0u);
    count.succeeded();
    EXPECT_EQ(stats.resolved(), 0u);
  }
  EXPECT_EQ(stats.succeeded, 1u);
  EXPECT_THROW(
      {
        const InlineCount count(stats);
        throw std::invalid_argument("refused");
      },
      std::invalid_argument);
  EXPECT_EQ(stats.failed, 1u);
  EXPECT_EQ(stats.accepted, stats.resolved());
}

}  // namespace
}  // namespace torchpool::testing
