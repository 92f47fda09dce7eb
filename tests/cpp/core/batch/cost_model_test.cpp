#include "core/batch/cost_model.h"

#include <cmath>

#include "core/test_support.h"

namespace torchpool::testing {
namespace {

constexpr bool kOneCore = true;
constexpr bool kAllCores = false;

BatchSize of_rows(std::int64_t rows, std::int64_t length = 1, std::int64_t limit = 0) {
  return {.rows = rows, .length = length, .items = rows * length, .limit = limit};
}

void record(CostModel& model, const BatchSize& size, std::int64_t ns, int times = 1, bool one_core = kOneCore) {
  for (int i = 0; i < times; ++i) model.record(size, Duration(ns), one_core);
}

TEST(CostModelTest, ClassesEndAtPowersOfTwo) {
  EXPECT_EQ(CostModel::row_class(0), 0);
  EXPECT_EQ(CostModel::row_class(1), 0);
  EXPECT_EQ(CostModel::row_class(2), 1);
  EXPECT_EQ(CostModel::row_class(3), 2);
  EXPECT_EQ(CostModel::row_class(4), 2);
  EXPECT_EQ(CostModel::row_class(5), 3);
  EXPECT_EQ(CostModel::row_class(8192), CostModel::kRowClasses - 1);
  EXPECT_EQ(CostModel::row_class(std::int64_t{1} << 40), CostModel::kRowClasses - 1);
  EXPECT_EQ(CostModel::length_class(64), 6);
  EXPECT_EQ(CostModel::length_class(65), 7);
  EXPECT_EQ(CostModel::length_class(std::int64_t{1} << 40), CostModel::kLengthClasses - 1);
}

TEST(CostModelTest, NothingIsKnownOfNothing) {
  const CostModel model;
  EXPECT_EQ(model.estimate(8, 16), Duration::zero());
  EXPECT_EQ(model.estimate_alone(8, 16), Duration::zero());
  EXPECT_EQ(model.ns_per_item(3, 4), 0);
  EXPECT_TRUE(model.points().empty());
  EXPECT_EQ(model.rows_in_memory(1), std::int64_t{1} << 40);
}

TEST(CostModelTest, SizesBeyondTheLastClassAreCounted) {
  CostModel model;
  record(model, of_rows(std::int64_t{1} << 20, std::int64_t{1} << 20), 1 << 10);
  ASSERT_EQ(model.points().size(), 1u);
  EXPECT_EQ(model.points()[0].rows, 8192);
  EXPECT_EQ(model.ns_per_item(-1, 0), 0);
  EXPECT_EQ(model.ns_per_item(0, -1), 0);
  EXPECT_EQ(model.ns_per_item(CostModel::kRowClasses, 0), 0);
  EXPECT_EQ(model.ns_per_item(0, CostModel::kLengthClasses), 0);
}

// The first run of a shape may take a hundred times as long as the rest.
TEST(CostModelTest, ColdFirstSamplesAreForgotten) {
  CostModel model;
  record(model, of_rows(8), 800'000);
  record(model, of_rows(8), 8'000);
  EXPECT_EQ(model.estimate(8, 1), Duration(8'000));
  record(model, of_rows(8), 8'000, 6);
  EXPECT_EQ(model.estimate(8, 1), Duration(8'000));
}

TEST(CostModelTest, AQuickSampleIsNotTakenForColdOnesEnd) {
  CostModel model;
  record(model, of_rows(1), 16'000, 16);
  record(model, of_rows(1), 10);  // an empty answer, for instance
  EXPECT_EQ(model.estimate(1, 1), Duration(15'500));
}

TEST(CostModelTest, OneOutlierMovesTheMeanByASixteenth) {
  CostModel model;
  record(model, of_rows(1), 16'000, 16);
  record(model, of_rows(1), 1'000'000'000);
  EXPECT_EQ(model.estimate(1, 1), Duration(17'000));
}

TEST(CostModelTest, ALastingChangeIsFollowedInTensOfBatches) {
  CostModel model;
  record(model, of_rows(4), 4'000, 50);
  record(model, of_rows(4), 40'000, 80);
  EXPECT_NEAR(static_cast<double>(model.estimate(4, 1).count()), 40'000, 2'000);
  record(model, of_rows(4), 4'000, 150);
  EXPECT_NEAR(static_cast<double>(model.estimate(4, 1).count()), 4'000, 200);
}

TEST(CostModelTest, CostOfAnItemNeedsEnoughFullBatches) {
  CostModel model;
  const int class_8 = CostModel::row_class(8);
  record(model, of_rows(8, 1, 8), 8'000, CostModel::kEnough - 1);
  EXPECT_EQ(model.ns_per_item(class_8, 0), 0);
  record(model, of_rows(8, 1, 8), 8'000);
  EXPECT_EQ(model.ns_per_item(class_8, 0), 1'000);
}

TEST(CostModelTest, SmallBatchesSayNothingOfTheirClassesCost) {
  CostModel model;
  const int class_64 = CostModel::row_class(64);
  record(model, of_rows(47), 47'000, 10);  // less than 3/4 of 64, and no limit
  EXPECT_EQ(model.ns_per_item(class_64, 0), 0);
  record(model, of_rows(48), 48'000, CostModel::kEnough);
  EXPECT_EQ(model.ns_per_item(class_64, 0), 1'000);
}

TEST(CostModelTest, ABatchThatFillsALimitCountsForTheLimitsClass) {
  CostModel model;
  // 100 is in the class of 128, which no batch can fill by three quarters of its rows at 88.
  record(model, of_rows(88, 1, 100), 88'000, CostModel::kEnough);
  EXPECT_EQ(model.ns_per_item(CostModel::row_class(100), 0), 1'000);
  // 87 are less than 7/8 of 100, and of 128.
  CostModel other;
  record(other, of_rows(87, 1, 100), 87'000, CostModel::kEnough);
  EXPECT_EQ(other.ns_per_item(CostModel::row_class(100), 0), 0);
  // 56 fill 64 by 7/8: they count there, in the class of their limit.
  record(other, of_rows(56, 1, 64), 112'000, CostModel::kEnough);
  EXPECT_EQ(other.ns_per_item(CostModel::row_class(64), 0), 2'000);
}

TEST(CostModelTest, PaddingCostsButIsNotWhatWasAskedFor) {
  CostModel model;
  model.record({.rows = 4, .length = 16, .items = 32, .limit = 4}, Duration(64'000), kOneCore);
  const CostModel::Point point = model.points().at(0);
  EXPECT_EQ(point.rows, 4);
  EXPECT_EQ(point.length, 16);
  EXPECT_EQ(point.samples, 1u);
  EXPECT_DOUBLE_EQ(point.ns_per_cell, 1'000);
  EXPECT_DOUBLE_EQ(point.ns_per_item, 2'000);
}

TEST(CostModelTest, EstimatesScaleWithRowsAndLengthWithinAClass) {
  CostModel model;
  record(model, of_rows(8, 16), 128'000);
  EXPECT_EQ(model.estimate(8, 16), Duration(128'000));
  EXPECT_EQ(model.estimate(5, 9), Duration(45'000));
}

// What the table holds in each case, in the order in which it is looked for.
TEST(CostModelTest, EstimatesFallBackToTheNearest) {
  CostModel model;
  const auto cell = [&](std::int64_t rows, std::int64_t length) {
    return model.estimate(rows, length).count() / (rows * length);
  };
  record(model, of_rows(8, 64), 8 * 64 * 7, 1, kAllCores);
  EXPECT_EQ(cell(8, 16), 7);  // only where one core is not known at all
  record(model, of_rows(64, 64), 64 * 64 * 6);
  EXPECT_EQ(cell(8, 16), 6);  // lengths two classes away, more rows
  record(model, of_rows(8, 8), 8 * 8 * 5);
  EXPECT_EQ(cell(8, 16), 5);  // one class away, shorter
  record(model, of_rows(8, 32), 8 * 32 * 4);
  EXPECT_EQ(cell(8, 16), 4);  // one class away, longer
  record(model, of_rows(16, 16), 16 * 16 * 3);
  EXPECT_EQ(cell(8, 16), 3);  // the same length, more rows
  record(model, of_rows(2, 16), 2 * 16 * 2);
  EXPECT_EQ(cell(8, 16), 2);  // the same length, fewer rows
  record(model, of_rows(8, 16), 8 * 16 * 1);
  EXPECT_EQ(cell(8, 16), 1);
}

TEST(CostModelTest, AloneIsKnownOnlyFromEnoughAndFromTheClassItself) {
  CostModel model;
  record(model, of_rows(1), 1'000, CostModel::kEnough - 1);
  record(model, of_rows(2), 1'000, 10);
  EXPECT_EQ(model.estimate_alone(1, 1), Duration::zero());
  record(model, of_rows(1), 1'000);
  EXPECT_EQ(model.estimate_alone(1, 1), Duration(1'000));
}

TEST(CostModelTest, AloneTakesTheCoresThatAreFastest) {
  CostModel model;
  record(model, of_rows(1), 1'000, CostModel::kEnough);
  record(model, of_rows(1), 400, CostModel::kEnough - 1, kAllCores);
  EXPECT_EQ(model.estimate_alone(1, 1), Duration(1'000));
  record(model, of_rows(1), 400, 1, kAllCores);
  EXPECT_EQ(model.estimate_alone(1, 1), Duration(400));
  record(model, of_rows(2), 300, CostModel::kEnough);
  record(model, of_rows(2), 900, CostModel::kEnough, kAllCores);
  EXPECT_EQ(model.estimate_alone(2, 1), Duration(300));
}

TEST(CostModelTest, TogetherIsTriedOnceSharesAreKnownAndKeptWhereItIsFaster) {
  CostModel model;
  EXPECT_FALSE(model.better_together(8, 4, 1));
  record(model, of_rows(4), 40'000, CostModel::kEnough - 1);
  EXPECT_FALSE(model.better_together(8, 4, 1));
  record(model, of_rows(4), 40'000);
  EXPECT_TRUE(model.better_together(8, 4, 1));  // not known yet
  record(model, of_rows(8), 44'000, CostModel::kEnough, kAllCores);
  EXPECT_FALSE(model.better_together(8, 4, 1));
  CostModel other;
  record(other, of_rows(4), 40'000, CostModel::kEnough);
  record(other, of_rows(8), 36'000, CostModel::kEnough, kAllCores);
  EXPECT_TRUE(other.better_together(8, 4, 1));
  EXPECT_FALSE(other.better_together(8, 4, 64));  // of that length nothing is known
}

TEST(CostModelTest, SharesThatAreShortAreNotTriedTogether) {
  CostModel model;
  record(model, of_rows(4), 4'000, CostModel::kEnough);
  EXPECT_FALSE(model.better_together(8, 4, 1));
}

TEST(CostModelTest, BothWaysAreTriedBeforeOneIsTaken) {
  CostModel model;
  EXPECT_TRUE(model.gains_by_cores(1, 1));
  record(model, of_rows(1), 100'000, CostModel::kEnough, kAllCores);
  EXPECT_FALSE(model.gains_by_cores(1, 1));
  record(model, of_rows(1), 150'000, CostModel::kEnough - 1);
  EXPECT_FALSE(model.gains_by_cores(1, 1));
  record(model, of_rows(1), 150'000);
  EXPECT_TRUE(model.gains_by_cores(1, 1));
  record(model, of_rows(2), 150'000, CostModel::kEnough, kAllCores);
  record(model, of_rows(2), 100'000, CostModel::kEnough);
  EXPECT_FALSE(model.gains_by_cores(2, 1));
}

TEST(CostModelTest, WhatIsLongGainsByCoresAndWhatIsShortDoesNotUntilMeasured) {
  CostModel model;
  record(model, of_rows(1), 2'000'000, CostModel::kEnough, kAllCores);
  EXPECT_TRUE(model.gains_by_cores(1, 1));
  record(model, of_rows(2), 20'000, CostModel::kEnough);
  EXPECT_FALSE(model.gains_by_cores(2, 1));
  record(model, of_rows(4), 200'000, CostModel::kEnough);
  EXPECT_TRUE(model.gains_by_cores(4, 1));
}

TEST(CostModelTest, TheOtherWayIsLookedAtAgainNowAndThen) {
  CostModel model;
  record(model, of_rows(1), 90'000, CostModel::kEnough, kAllCores);
  record(model, of_rows(1), 20'000, CostModel::kEnough);
  int looks = 0;
  for (int batch = 0; batch < 1'024; ++batch) {
    const bool gains = model.gains_by_cores(1, 1);
    looks += gains ? 1 : 0;
    record(model, of_rows(1), gains ? 90'000 : 20'000, 1, gains ? kAllCores : kOneCore);
  }
  EXPECT_EQ(looks, 4);
  for (int batch = 0; batch < 32'768; ++batch) {  // by now all cores are faster
    const bool gains = model.gains_by_cores(1, 1);
    record(model, of_rows(1), gains ? 5'000 : 20'000, 1, gains ? kAllCores : kOneCore);
  }
  EXPECT_TRUE(model.gains_by_cores(1, 1));
}

TEST(CostModelTest, OnOneCoreIsOfTheClassItself) {
  CostModel model;
  record(model, of_rows(1), 1'000, CostModel::kEnough, kAllCores);
  EXPECT_EQ(model.measured_on_one_core(1, 1), Duration::zero());
  record(model, of_rows(1), 3'000, CostModel::kEnough);
  EXPECT_EQ(model.measured_on_one_core(1, 1), Duration(3'000));
  EXPECT_EQ(model.measured_on_one_core(2, 1), Duration::zero());
}

TEST(CostModelTest, WhatMemoryHoldsShrinks) {
  CostModel model;
  model.record_out_of_memory(64, 16);
  EXPECT_EQ(model.rows_in_memory(16), 32);
  EXPECT_EQ(model.rows_in_memory(32), 16);
  EXPECT_EQ(model.rows_in_memory(1), 512);
  model.record_out_of_memory(128, 16);
  EXPECT_EQ(model.rows_in_memory(16), 32);
  model.record_out_of_memory(16, 16);
  EXPECT_EQ(model.rows_in_memory(16), 8);
  model.record_out_of_memory(1, 1);
  EXPECT_EQ(model.rows_in_memory(1), 1);
  EXPECT_EQ(model.rows_in_memory(1'000), 1);  // one row is always tried
}

// As many batches of nearly the bound's size as are needed before a larger one is tried.
void fill(CostModel& model, std::int64_t rows, int batches) {
  for (int i = 0; i < batches; ++i) model.record(of_rows(rows, 1, rows), Duration(rows), kOneCore);
}

TEST(CostModelTest, WhatMemoryHoldsIsTriedAgain) {
  CostModel model;
  model.record_out_of_memory(64, 1);
  fill(model, 16, 1'000);  // small ones say nothing
  fill(model, 32, 63);
  EXPECT_EQ(model.rows_in_memory(1), 32);
  fill(model, 32, 1);
  EXPECT_EQ(model.rows_in_memory(1), 64);
  fill(model, 64, 64);
  EXPECT_EQ(model.rows_in_memory(1), 128);
}

TEST(CostModelTest, WhatFailsAgainIsTriedLater) {
  CostModel model;
  model.record_out_of_memory(64, 1);
  fill(model, 32, 64);
  model.record_out_of_memory(64, 1);
  EXPECT_EQ(model.rows_in_memory(1), 32);
  fill(model, 32, 127);
  EXPECT_EQ(model.rows_in_memory(1), 32);
  fill(model, 32, 1);
  EXPECT_EQ(model.rows_in_memory(1), 64);
}

TEST(CostModelTest, WritersAndReadersMayMeet) {
  CostModel model;
  run_threads(6, [&](int thread) {
    for (int i = 0; i < 5'000; ++i) {
      if (thread < 3) model.record(of_rows(8, 1, 8), Duration(8'000), kOneCore);
      if (thread == 3) model.record_out_of_memory(1'000 - i % 500, 2);
      if (thread < 4) continue;
      const auto seen = model.estimate(8, 1).count();
      EXPECT_TRUE(seen == 0 || seen == 8'000) << seen;
      EXPECT_LE(model.points().size(), 1u);
    }
  });
  EXPECT_EQ(model.estimate(8, 1), Duration(8'000));
  EXPECT_EQ(model.ns_per_item(3, 0), 1'000);
  EXPECT_EQ(model.rows_in_memory(1), 501);
}

}  // namespace
}  // namespace torchpool::testing
