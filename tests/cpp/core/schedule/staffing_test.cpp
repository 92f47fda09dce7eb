#include "core/schedule/staffing.h"

#include <gtest/gtest.h>

namespace torchpool {
namespace {

Staffing staff(int max_workers, int threads, int idle) {
  Staffing made;
  made.max_workers = max_workers;
  made.threads = threads;
  made.idle = idle;
  return made;
}

TEST(Staffing, CallsNobodyWhenNothingWaits) {
  EXPECT_EQ(staff(4, 0, 0).hire(0), Hire::kNobody);
  EXPECT_EQ(staff(4, 2, 2).hire(0), Hire::kNobody);
}

TEST(Staffing, StartsAThreadWhenFewerAreIdleThanTasksWait) {
  EXPECT_EQ(staff(4, 0, 0).hire(1), Hire::kSpawn);
  EXPECT_EQ(staff(4, 2, 0).hire(1), Hire::kSpawn);
  EXPECT_EQ(staff(4, 2, 1).hire(2), Hire::kSpawn);
}

TEST(Staffing, StartsNoThreadMoreThanAllowed) {
  EXPECT_EQ(staff(4, 4, 0).hire(100), Hire::kNobody);
}

TEST(Staffing, WakesAnIdleThreadBeforeItStartsOne) {
  EXPECT_EQ(staff(4, 1, 1).hire(1), Hire::kWake);
}

TEST(Staffing, WakesOneAtATime) {
  Staffing made = staff(4, 4, 3);
  EXPECT_EQ(made.hire(10), Hire::kWake);
  made.waking = true;
  EXPECT_EQ(made.hire(10), Hire::kNobody);
}

TEST(Staffing, ParkedTasksDoNotCountUpToTheOverlap) {
  Staffing made = staff(2, 2, 0);
  made.overlap = 1;
  EXPECT_EQ(made.hire(1), Hire::kNobody);
  made.parked = 1;
  EXPECT_EQ(made.hire(1), Hire::kSpawn);
  made.threads = 3;
  made.parked = 2;
  EXPECT_EQ(made.hire(1), Hire::kNobody);
}

Staffing learning(int max_workers, int threads) {
  Staffing made = staff(max_workers, threads, 0);
  made.learns = true;
  return made;
}

TEST(Staffing, AsManyParkedTasksAsFillBatchesDoNotCount) {
  Staffing made = learning(2, 2);
  made.park(1);
  EXPECT_EQ(made.hire(1), Hire::kSpawn);
  made.threads = 3;
  made.park(1);
  EXPECT_EQ(made.hire(1), Hire::kNobody);
  made.park(3);  // calls of another kind, of which more are useful
  EXPECT_EQ(made.hire(1), Hire::kSpawn);
}

TEST(Staffing, WhatParkedTasksAskedForHoldsUntilAllAreBack) {
  Staffing made = learning(2, 4);
  made.park(3);
  made.park(0);
  EXPECT_EQ(made.free_of_charge(), 2);
  made.parked = 0;
  made.park(0);
  EXPECT_EQ(made.free_of_charge(), 0);
}

TEST(Staffing, ThreadsThatWereOfUseStayUntilAResize) {
  Staffing made = learning(2, 5);
  EXPECT_TRUE(made.too_many());
  made.park(3);
  EXPECT_FALSE(made.too_many());
  made.parked = 0;
  made.park(0);
  EXPECT_FALSE(made.too_many());
  made.parked = 0;
  made.resize(3);
  EXPECT_TRUE(made.too_many());
}

TEST(Staffing, NoMoreThreadsAreStartedThanAreWorthIt) {
  Staffing made = learning(2, 2 + kMostOverlap);
  for (int i = 0; i < 1000; ++i) made.park(1000);
  EXPECT_EQ(made.free_of_charge(), kMostOverlap);
  EXPECT_EQ(made.hire(1), Hire::kNobody);
  EXPECT_FALSE(made.too_many());
  made.threads += 1;
  EXPECT_TRUE(made.too_many());
}

TEST(Staffing, WithOneWorkerParkedTasksCountUnlessAnOverlapIsStated) {
  Staffing made = learning(1, 1);
  made.park(100);
  EXPECT_EQ(made.hire(1), Hire::kNobody);
  EXPECT_FALSE(made.too_many());
  made.max_workers = 2;
  EXPECT_EQ(made.hire(1), Hire::kSpawn);
  made.max_workers = 1;
  made.threads = 2;
  EXPECT_TRUE(made.too_many());
  Staffing stated = staff(1, 1, 0);
  stated.overlap = 1;
  stated.park(0);
  EXPECT_EQ(stated.hire(1), Hire::kSpawn);
}

TEST(Staffing, NothingNewIsStartedWhileMoreRunThanAllowed) {
  Staffing made = staff(2, 4, 0);
  made.overlap = 2;
  made.parked = 2;
  EXPECT_TRUE(made.may_take());
  made.parked = 1;  // one is back, and runs beside the two
  EXPECT_FALSE(made.may_take());
  made.threads = 5;
  made.idle = 1;
  EXPECT_EQ(made.hire(1), Hire::kNobody);
}

TEST(Staffing, AfterAShrinkBusyThreadsAreTooMany) {
  Staffing made = staff(4, 4, 0);
  EXPECT_FALSE(made.too_many());
  made.max_workers = 2;
  EXPECT_TRUE(made.too_many());
  EXPECT_FALSE(made.may_take());
  made.overlap = 2;
  EXPECT_FALSE(made.too_many());
}

TEST(Staffing, AThreadBesideTheWorkersIsStartedOnlyWhereItPays) {
  Staffing made = learning(2, 1);
  made.growth.note_first(std::chrono::seconds(1));
  EXPECT_EQ(made.hire(1), Hire::kSpawn);  // max_workers were asked for
  made.add_thread();
  made.park(8);
  EXPECT_EQ(made.hire(100), Hire::kNobody);
  made.growth.note_first({});
  EXPECT_EQ(made.hire(1), Hire::kSpawn);
}

TEST(Staffing, AnOverlapThatWasStatedIsHadWhateverItCosts) {
  Staffing made = staff(1, 1, 0);
  made.overlap = 1;
  made.growth.note_first(std::chrono::seconds(1));
  made.park(0);
  EXPECT_EQ(made.hire(1), Hire::kSpawn);
}

TEST(Staffing, IsStuckWhenAllThatMayRunWaitForTasks) {
  Staffing made = staff(2, 2, 0);
  EXPECT_FALSE(made.stuck());
  made.blocked = 1;
  EXPECT_FALSE(made.stuck());
  made.blocked = 2;
  EXPECT_TRUE(made.stuck());
}

TEST(Staffing, IsNotStuckWhileAThreadMayStillCome) {
  Staffing made = staff(2, 1, 0);
  made.blocked = 1;
  EXPECT_FALSE(made.stuck());
  made.threads = 2;
  made.idle = 1;
  EXPECT_FALSE(made.stuck());
}

TEST(Staffing, ATaskInAPredictorKeepsItFromBeingStuck) {
  Staffing made = staff(2, 2, 0);
  made.blocked = 1;
  made.parked = 1;
  EXPECT_FALSE(made.stuck());
}

TEST(Staffing, TheLastThreadThatIsNotBlockedStaysWhateverTheLimit) {
  Staffing made = staff(1, 2, 0);
  EXPECT_FALSE(made.may_take());
  made.blocked = 1;
  EXPECT_TRUE(made.others_blocked());
  EXPECT_TRUE(made.may_take());
}

}  // namespace
}  // namespace torchpool
