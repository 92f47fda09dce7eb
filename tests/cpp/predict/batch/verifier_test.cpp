#include "predict/batch/verifier.h"

#include <gtest/gtest.h>

namespace torchpool::testing {
namespace {

using std::chrono::milliseconds;
using Mode = Verifier::Mode;

const std::vector<std::int64_t> kNoLengths;

Verifier::Batch batch_of(std::int64_t rows, Duration took, const std::vector<std::int64_t>& lengths = kNoLengths) {
  return {rows, lengths, static_cast<std::size_t>(rows), took};
}

// Batches until all of the class's rows have been seen.
int get_to_know(Verifier& verifier, const Verifier::Batch& batch) {
  for (int batches = 0;; ++batches) {
    const auto sample = verifier.choose(batch);
    if (sample.reserved || sample.count == 0) return batches;
    EXPECT_EQ(sample.first, 0U);
    EXPECT_EQ(sample.count, batch.calls);
    verifier.record(batch, sample, batch.rows, milliseconds(8));
  }
}

TEST(Verifier, LooksAtAllBatchesOfASizeClassUntilEnoughRowsAgreed) {
  Verifier verifier(Mode::kVerify, 0);
  EXPECT_EQ(get_to_know(verifier, batch_of(8, milliseconds(1))), 125);
  EXPECT_EQ(get_to_know(verifier, batch_of(7, milliseconds(1))), 0) << "rows are rounded up to a power of two";
  EXPECT_EQ(get_to_know(verifier, batch_of(9, milliseconds(1))), 112);
  const std::vector<std::int64_t> lengths{5};
  EXPECT_EQ(get_to_know(verifier, batch_of(8, milliseconds(1), lengths)), 125) << "of another length";
}

TEST(Verifier, BatchesOfAGraphAndOfTheModuleAreNotOfOneClass) {
  Verifier verifier(Mode::kVerify, 0);
  auto batch = batch_of(500, milliseconds(1));
  EXPECT_EQ(get_to_know(verifier, batch), 2);
  batch.by_module = false;
  EXPECT_EQ(get_to_know(verifier, batch), 2);
}

TEST(Verifier, RowsThatProveNothingDoNotCount) {
  Verifier verifier(Mode::kVerify, 0);
  const auto batch = batch_of(500, milliseconds(1));
  for (int i = 0; i < 10; ++i) {
    const auto sample = verifier.choose(batch);
    ASSERT_EQ(sample.count, 500U);
    verifier.record(batch, sample, 0, milliseconds(1));
  }
  EXPECT_EQ(get_to_know(verifier, batch), 2);
}

TEST(Verifier, ClassesBeyondTheLastAreNeverWellKnown) {
  Verifier verifier(Mode::kVerify, 0);
  for (std::size_t i = 0; i < Verifier::kMaxClasses; ++i) {
    const std::vector<std::int64_t> lengths{static_cast<std::int64_t>(i)};
    verifier.choose(batch_of(1000, milliseconds(1), lengths));
  }
  const std::vector<std::int64_t> further{-1};
  const auto batch = batch_of(1000, milliseconds(1), further);
  for (int i = 0; i < 5; ++i) {
    const auto sample = verifier.choose(batch);
    EXPECT_EQ(sample.count, 1000U);
    verifier.record(batch, sample, 1000, milliseconds(1));
  }
}

// A well-known class: whole batches of 8 ms alone, within the share of those of 1 ms.
TEST(Verifier, LooksAtAShareOfTheTimeAfterwards) {
  for (const double share : {0.01, 0.1, 0.5}) {
    Verifier verifier(Mode::kVerify, share);
    const auto batch = batch_of(8, milliseconds(1));
    const int batches = 4000;
    get_to_know(verifier, batch);
    Duration spent{};
    for (int i = 0; i < batches; ++i) {
      const auto sample = verifier.choose(batch);
      if (sample.count == 0) continue;
      EXPECT_EQ(sample.count, 8U);
      verifier.record(batch, sample, 8, milliseconds(8));
      spent += milliseconds(8);
      EXPECT_LE(spent, from_seconds(1e-3 * share * (i + 2)));
    }
    EXPECT_GE(spent, from_seconds(1e-3 * share * batches) - milliseconds(8));
  }
}

TEST(Verifier, ProvenKindsAreLookedAtByOneCallOfABatchWithinTheShare) {
  Verifier verifier(Mode::kAlarm, 0.01);
  const auto batch = batch_of(4, milliseconds(10));
  Duration spent{};
  std::vector<int> looked(4);
  for (int i = 1; i <= 10'000; ++i) {
    const auto sample = verifier.choose(batch);
    if (sample.count == 0) continue;
    EXPECT_EQ(sample.count, 1U);
    ++looked.at(sample.first);
    verifier.record(batch, sample, 1, milliseconds(4));
    spent += milliseconds(4);
    EXPECT_LE(spent, 0.01 * milliseconds(10) * i);
  }
  EXPECT_EQ(spent, milliseconds(1000));
  for (const int times : looked) EXPECT_GT(times, 30) << "every place of a batch";
}

TEST(Verifier, ALookThatTakesLongerThanThoughtIsPaidForLater) {
  Verifier verifier(Mode::kAlarm, 0.1);
  const auto batch = batch_of(4, milliseconds(10));
  int looks = 0;
  for (int i = 0; i < 10; ++i) {
    const auto sample = verifier.choose(batch);
    if (sample.count == 0) continue;
    ++looks;
    verifier.record(batch, sample, 1, milliseconds(50));
  }
  EXPECT_EQ(looks, 1);
  for (int i = 0; i < 89; ++i) EXPECT_EQ(verifier.choose(batch).count, 0U);
  EXPECT_EQ(verifier.choose(batch).count, 1U) << "1,000 ms of batches pay for 100 ms";
}

TEST(Verifier, AShareOfNothingIsNothing) {
  Verifier verifier(Mode::kAlarm, 0);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(verifier.choose(batch_of(4, Duration::zero())).count, 0U);
}

TEST(Verifier, OnlyTheFirstDifferenceIsToldAndOnlyOnce) {
  const auto seen = std::make_shared<Refutation>();
  Verifier verifier(Mode::kAlarm, 0.1, seen);
  EXPECT_TRUE(verifier.may_part());
  EXPECT_FALSE(verifier.refuted());
  EXPECT_EQ(seen->take_text(), std::nullopt);
  EXPECT_TRUE(verifier.refute("row 3 of 8"));
  EXPECT_FALSE(verifier.refute("row 4 of 8"));
  EXPECT_TRUE(verifier.refuted());
  EXPECT_FALSE(verifier.may_part());
  EXPECT_EQ(seen->take_text(), "row 3 of 8");
  EXPECT_EQ(seen->take_text(), std::nullopt);
  EXPECT_TRUE(verifier.refuted());
}

TEST(Verifier, WhatOneContractsBatchesShowHoldsForTheKindsOthers) {
  const auto seen = std::make_shared<Refutation>();
  Verifier before(Mode::kVerify, 0, seen);
  Verifier after(Mode::kAlarm, 0.1, seen);
  EXPECT_TRUE(before.refute("row 3 of 8"));
  EXPECT_TRUE(after.refuted());
  EXPECT_FALSE(after.may_part());
  EXPECT_FALSE(after.refute("row 1 of 4"));
  EXPECT_EQ(seen->take_text(), "row 3 of 8");
}

TEST(Verifier, UnprovenCallsStayWhole) {
  EXPECT_FALSE(Verifier(Mode::kVerify, 0.1).may_part());
}

}  // namespace
}  // namespace torchpool::testing
