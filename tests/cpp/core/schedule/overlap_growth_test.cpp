#include "core/schedule/overlap_growth.h"

#include <gtest/gtest.h>

#include "core/sync/manual_clock.h"

namespace torchpool {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr int kThreads = 4;
constexpr std::size_t kMany = 1000;  // tasks that wait

class OverlapGrowthTest : public ::testing::Test {
 protected:
  // Tasks that end at one pace, while others wait.
  void end(int count, Duration each, bool waiting = true) {
    for (int i = 0; i < count; ++i) {
      clock_.advance(each);
      growth_.note_end(clock_.now(), waiting);
    }
  }
  // Threads' first tasks take 30 ms, later ones 1 ms; one ends each millisecond.
  void make_costly() {
    growth_.note_first(milliseconds(30));
    growth_.note_later(milliseconds(1));
    end(100, milliseconds(1));
  }

  ManualClock clock_;
  OverlapGrowth growth_;
};

TEST_F(OverlapGrowthTest, ThreadsOfWhichNothingIsKnownAreNotAskedFor) {
  EXPECT_TRUE(growth_.pays(1, kThreads));
  EXPECT_FALSE(growth_.asks_for_ends());
}

TEST_F(OverlapGrowthTest, CheapThreadsPayAtOnceAndAreAskedNothing) {
  growth_.note_first(OverlapGrowth::kCheap);
  growth_.grew(kThreads);
  EXPECT_TRUE(growth_.pays(1, kThreads));
  EXPECT_FALSE(growth_.asks_for_ends());
  EXPECT_FALSE(growth_.asks_for_later());
}

TEST_F(OverlapGrowthTest, ACostlyFirstTaskWaitsForWhatLaterOnesCost) {
  growth_.note_first(milliseconds(30));
  EXPECT_TRUE(growth_.asks_for_later());
  EXPECT_FALSE(growth_.pays(kMany, kThreads));
  growth_.note_later(milliseconds(29));  // all tasks are long
  EXPECT_TRUE(growth_.pays(1, kThreads));
}

TEST_F(OverlapGrowthTest, WhatLaterTasksCostIsAMeanOfTheLast) {
  growth_.note_first(milliseconds(30));
  growth_.note_later(milliseconds(29));
  for (int i = 0; i < 100; ++i) growth_.note_later(milliseconds(1));
  EXPECT_FALSE(growth_.pays(1, kThreads));
}

TEST_F(OverlapGrowthTest, CostlyThreadsPayWhereManyTasksWait) {
  make_costly();
  EXPECT_FALSE(growth_.pays(200, kThreads));  // 200 x 1 ms / 5 / 2 = 20 ms are to be saved
  EXPECT_TRUE(growth_.pays(400, kThreads));   // 40 ms
  EXPECT_FALSE(growth_.pays(400, 10));        // 18 ms
}

TEST_F(OverlapGrowthTest, AsManyTasksAreToComeAsHaveBeen) {
  make_costly();
  EXPECT_FALSE(growth_.pays(1, kThreads));
  end(300, milliseconds(1));
  EXPECT_TRUE(growth_.pays(1, kThreads));
}

TEST_F(OverlapGrowthTest, TooFewTasksTellNoPace) {
  growth_.note_first(milliseconds(30));
  growth_.note_later(milliseconds(1));
  end(16, milliseconds(1));  // of which the first has none before it
  EXPECT_FALSE(growth_.pays(kMany, kThreads));
  end(1, milliseconds(1));
  EXPECT_TRUE(growth_.pays(kMany, kThreads));
}

TEST_F(OverlapGrowthTest, TimeInWhichNothingWaitsIsNotATasks) {
  growth_.note_first(milliseconds(30));
  growth_.note_later(milliseconds(1));
  for (int i = 0; i < 100; ++i) {
    end(1, microseconds(10));
    end(1, microseconds(10), false);
    end(1, std::chrono::hours(1));
  }
  EXPECT_FALSE(growth_.pays(kMany, kThreads));  // 1000 x 10 us / 5 / 2 = 1 ms
}

TEST_F(OverlapGrowthTest, CostlyThreadsAreStartedOneAtATime) {
  make_costly();
  growth_.grew(kThreads);
  EXPECT_FALSE(growth_.pays(kMany, kThreads + 1));
  growth_.note_first(milliseconds(30));
  EXPECT_FALSE(growth_.pays(kMany, kThreads + 1));  // its pace is not known
  end(100, microseconds(800));
  EXPECT_TRUE(growth_.pays(kMany, kThreads + 1));
}

TEST_F(OverlapGrowthTest, AThreadThatLeftWithoutATaskIsNotWaitedFor) {
  make_costly();
  growth_.grew(kThreads);
  growth_.left();
  EXPECT_TRUE(growth_.pays(kMany, kThreads));
}

TEST_F(OverlapGrowthTest, WhereAThreadSavedNothingNoMoreAreStarted) {
  make_costly();
  growth_.grew(kThreads);
  growth_.note_first(milliseconds(30));
  end(100, milliseconds(1));
  EXPECT_FALSE(growth_.pays(kMany, kThreads + 1));
  EXPECT_TRUE(growth_.pays(10 * kMany, kThreads + 1));  // but a try is worth it now and then
}

TEST_F(OverlapGrowthTest, WhereAThreadSavedAllItCouldMoreAreExpectedOfTheNext) {
  make_costly();
  EXPECT_FALSE(growth_.pays(240, kThreads));
  growth_.grew(kThreads);
  growth_.note_first(milliseconds(30));
  end(100, microseconds(800));
  EXPECT_TRUE(growth_.pays(240, kThreads + 1));  // 240 x 0.8 ms / 6 = 32 ms
}

TEST_F(OverlapGrowthTest, TheLastThreadTellsWhatTheNextCosts) {
  make_costly();
  growth_.note_first(milliseconds(2));
  EXPECT_TRUE(growth_.pays(1, kThreads));
}

TEST_F(OverlapGrowthTest, OnceEnoughAreKnownFewLaterTasksAreMeasured) {
  growth_.note_first(milliseconds(30));
  int asked = 0;
  for (int i = 0; i < 88; ++i) {
    if (growth_.asks_for_later()) {
      ++asked;
      growth_.note_later(milliseconds(1));
    }
    end(1, milliseconds(1));
  }
  EXPECT_EQ(asked, 8 + 10);
}

}  // namespace
}  // namespace torchpool
