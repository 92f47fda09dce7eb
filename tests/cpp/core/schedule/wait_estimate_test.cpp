#include "core/schedule/wait_estimate.h"

#include <gtest/gtest.h>

#include <chrono>

namespace torchpool {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(WaitEstimate, SupposesUntilACallHasShownIt) {
  EXPECT_TRUE(WaitEstimate(true).mostly());
  EXPECT_FALSE(WaitEstimate(false).mostly());
}

TEST(WaitEstimate, CallsThatSleepWait) {
  WaitEstimate estimate(false);
  estimate.record({milliseconds(20), microseconds(100), microseconds(150)});
  EXPECT_TRUE(estimate.mostly());
}

TEST(WaitEstimate, CallsThatComputeDoNot) {
  WaitEstimate estimate(true);
  estimate.record({milliseconds(20), milliseconds(19), milliseconds(20)});
  EXPECT_FALSE(estimate.mostly());
}

TEST(WaitEstimate, ShortCallsAreNotWorthAThread) {
  WaitEstimate estimate(true);
  estimate.record({microseconds(100), microseconds(1), microseconds(1)});
  EXPECT_FALSE(estimate.mostly());
}

// Each of those that take turns at the interpreter's lock has its share of the time, the process all of it.
TEST(WaitEstimate, CallsThatWaitForEachOtherCompute) {
  WaitEstimate estimate(true);
  estimate.record({microseconds(1500), microseconds(250), microseconds(1490), 6});
  EXPECT_FALSE(estimate.mostly());
}

TEST(WaitEstimate, WhatOthersOfTheProcessTookTellsNothing) {
  for (const bool before : {false, true}) {
    WaitEstimate estimate(before);
    for (int i = 0; i < 100; ++i) estimate.record({milliseconds(20), microseconds(100), milliseconds(20), 6});
    EXPECT_EQ(estimate.mostly(), before);
  }
}

TEST(WaitEstimate, FollowsWhatCallsComeToBe) {
  WaitEstimate estimate(false);
  estimate.record({milliseconds(1), milliseconds(1), milliseconds(1)});
  for (int i = 0; i < 40; ++i) estimate.record({milliseconds(1), microseconds(10), microseconds(20)});
  EXPECT_TRUE(estimate.mostly());
  for (int i = 0; i < 40; ++i) estimate.record({milliseconds(1), microseconds(990), milliseconds(1)});
  EXPECT_FALSE(estimate.mostly());
}

}  // namespace
}  // namespace torchpool
