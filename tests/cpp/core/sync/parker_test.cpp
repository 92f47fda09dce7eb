#include "core/sync/parker.h"

#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::seconds;

TEST(ParkerTest, RemembersOnePermit) {
  ManualClock clock;
  Parker parker(clock);
  parker.unpark();
  parker.unpark();
  EXPECT_TRUE(parker.park_until(clock.now()));
  EXPECT_FALSE(parker.park_until(clock.now()));
}

TEST(ParkerTest, TakesAPermitOnlyWhenThereIsOne) {
  Parker parker;
  EXPECT_FALSE(parker.try_take());
  parker.unpark();
  EXPECT_TRUE(parker.try_take());
  EXPECT_FALSE(parker.try_take());
}

TEST(ParkerTest, ReturnsFalseWhenItsTimePasses) {
  ManualClock clock;
  Parker parker(clock);
  std::thread other([&] {
    clock.await_timed_waiters(1);
    clock.advance(seconds(1));
  });
  EXPECT_FALSE(parker.park_until(clock.now() + seconds(1)));
  other.join();
  parker.unpark();
  EXPECT_TRUE(parker.park_until(kNever));
}

TEST(ParkerTest, ATimeThatHasPassedEndsASleepOnTheMachinesClock) {
  Parker parker;
  EXPECT_FALSE(parker.park_until(TimePoint{}));
  EXPECT_FALSE(parker.park_until(Clock::steady().now() + std::chrono::microseconds(1)));
  parker.unpark();
  EXPECT_TRUE(parker.park_until(TimePoint{}));
}

// A sleep that ends by its time and a permit that comes at that very moment: the permit is never lost.
TEST(ParkerTest, PermitsThatMeetTheEndOfASleepAreKept) {
  Parker parker;
  std::atomic<int> given{0};
  int taken = 0;
  std::thread other([&] {
    for (int i = 0; i < 20000; ++i) {
      given.fetch_add(1);
      parker.unpark();
      while (given.load() != 0) std::this_thread::yield();
    }
  });
  while (taken < 20000) {
    if (!parker.park_until(Clock::steady().now() + std::chrono::microseconds(taken % 5))) continue;
    ++taken;
    given.store(0);
  }
  other.join();
  EXPECT_FALSE(parker.try_take());
}

TEST(ParkerTest, AnUnparkEndsATimedWaitBeforeItsTime) {
  ManualClock clock;
  Parker parker(clock);
  std::thread other([&] {
    clock.await_timed_waiters(1);
    parker.unpark();
  });
  EXPECT_TRUE(parker.park_until(clock.now() + seconds(1)));
  other.join();
}

TEST(ParkerTest, TwoThreadsHandOverManyTimes) {
  Parker ping;
  Parker pong;
  int turns = 0;  // handed over by the permits alone
  std::thread other([&] {
    for (int i = 0; i < 20000; ++i) {
      ping.park();
      ++turns;
      pong.unpark();
    }
  });
  for (int i = 0; i < 20000; ++i) {
    ping.unpark();
    pong.park();
    ASSERT_EQ(turns, i + 1);
  }
  other.join();
}

TEST(ManualClockTest, AdvanceWakesExactlyThoseWhoseTimeCame) {
  ManualClock clock;
  Parker early(clock);
  Parker late(clock);
  const TimePoint start = clock.now();
  std::thread first([&] { EXPECT_FALSE(early.park_until(start + seconds(1))); });
  std::thread second([&] { EXPECT_TRUE(late.park_until(start + seconds(2))); });
  clock.await_timed_waiters(2);
  clock.advance(seconds(1));
  first.join();
  late.unpark();
  second.join();
  EXPECT_EQ(clock.now(), start + seconds(1));
}

TEST(ManualClockTest, LosesNoWakeUpWhenWaitAndAdvanceRace) {
  for (int round = 0; round < 500; ++round) {
    ManualClock clock;
    Parker parker(clock);
    const TimePoint until = clock.now() + seconds(1);
    std::thread waiter([&] { EXPECT_FALSE(parker.park_until(until)); });
    clock.advance(seconds(1));
    waiter.join();
  }
}

TEST(ManualClockTest, CountsUntimedWaitersToo) {
  ManualClock clock;
  Parker parker(clock);
  std::thread waiter([&] { parker.park(); });
  clock.await_waiters(1);
  parker.unpark();
  waiter.join();
}

}  // namespace
}  // namespace torchpool::testing
