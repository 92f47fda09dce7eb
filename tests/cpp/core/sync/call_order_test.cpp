#include "core/sync/call_order.h"

#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::seconds;

TEST(CallOrderTest, CallsShareATurnThatIsOpen) {
  CallOrder order;
  const TurnPtr one = order.enter();
  const TurnPtr other = order.enter();
  EXPECT_EQ(one, other);
  EXPECT_TRUE(one->open());
  EXPECT_FALSE(one->alone());
  EXPECT_TRUE(order.open());
}

TEST(CallOrderTest, ACallAloneComesAtOnceWhereNothingRuns) {
  CallOrder order;
  TurnPtr alone = order.enter_alone();
  EXPECT_TRUE(alone->open());
  EXPECT_TRUE(alone->alone());
  EXPECT_FALSE(order.open());
  alone.reset();
  EXPECT_TRUE(order.open());
  EXPECT_TRUE(order.enter()->open());
}

TEST(CallOrderTest, ACallAloneWaitsForThoseBeforeAndNoLaterOneStandsInForThem) {
  CallOrder order;
  TurnPtr earlier = order.enter();
  TurnPtr also_earlier = order.enter();
  TurnPtr alone = order.enter_alone();
  EXPECT_FALSE(alone->open());
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(order.enter()->open());  // come and gone
  also_earlier.reset();
  EXPECT_FALSE(alone->open());
  earlier.reset();
  EXPECT_TRUE(alone->open());
}

TEST(CallOrderTest, LaterCallsWaitForTheOneAlone) {
  CallOrder order;
  TurnPtr earlier = order.enter();
  TurnPtr alone = order.enter_alone();
  TurnPtr later = order.enter();
  EXPECT_FALSE(order.open());
  earlier.reset();
  EXPECT_FALSE(later->open());
  alone.reset();
  EXPECT_TRUE(later->open());
  EXPECT_TRUE(order.open());
}

TEST(CallOrderTest, OneAloneThatHasGivenUpLetsNobodyPastThoseBefore) {
  CallOrder order;
  TurnPtr earlier = order.enter();
  TurnPtr alone = order.enter_alone();
  TurnPtr next = order.enter_alone();
  alone.reset();
  EXPECT_FALSE(next->open());
  earlier.reset();
  EXPECT_TRUE(next->open());
}

TEST(CallOrderTest, ManyThatHaveGivenUpAreOverAtOnce) {
  CallOrder order;
  TurnPtr earlier = order.enter();
  for (int i = 0; i < 200'000; ++i) order.enter_alone();
  const TurnPtr last = order.enter();
  EXPECT_FALSE(last->open());
  earlier.reset();
  EXPECT_TRUE(last->open());
}

TEST(CallOrderTest, WhoOvertakesIsWaitedForAsEver) {
  CallOrder order;
  TurnPtr earlier = order.enter();
  TurnPtr alone = order.enter_alone();
  TurnPtr later = order.enter();
  alone->overtake();
  EXPECT_TRUE(alone->open());
  EXPECT_FALSE(later->open());
  alone.reset();
  EXPECT_TRUE(later->open());
  earlier.reset();
  EXPECT_TRUE(later->open());
}

TEST(CallOrderTest, AWaitEndsAtItsLimit) {
  CallOrder order;
  ManualClock clock;
  const TurnPtr earlier = order.enter();
  const TurnPtr alone = order.enter_alone();
  const TimePoint until = clock.now() + seconds(1);
  std::thread waiter([&] { EXPECT_FALSE(alone->wait_open(clock, until)); });
  clock.await_timed_waiters(1);
  clock.advance(seconds(1));
  waiter.join();
  EXPECT_FALSE(alone->open());
}

TEST(CallOrderTest, AWaitEndsWhenTheLastOneBeforeIsOver) {
  CallOrder order;
  ManualClock clock;
  TurnPtr earlier = order.enter();
  const TurnPtr alone = order.enter_alone();
  int written = 0;
  std::thread waiter([&] {
    EXPECT_TRUE(alone->wait_open(clock, kNever));
    EXPECT_EQ(written, 1);
  });
  clock.await_waiters(1);
  written = 1;
  earlier.reset();
  waiter.join();
}

// Calls that write what others read, with nothing else between them than their turns.
TEST(CallOrderTest, ThreadsThatWriteAloneMeetNobody) {
  constexpr int kThreads = 4;
  constexpr int kCalls = 300;
  CallOrder order;
  Mutex one_at_a_time;
  int state = 0;
  std::atomic<int> inside{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int call = 0; call < kCalls; ++call) {
        const bool alone = call % 5 == thread % 5;
        TurnPtr turn;
        {
          MutexLock lock(one_at_a_time);
          turn = alone ? order.enter_alone() : order.enter();
        }
        EXPECT_TRUE(turn->wait_open(Clock::steady(), kNever));
        const int others = inside.fetch_add(1);
        if (alone) {
          EXPECT_EQ(others, 0);
          ++state;
        } else {
          EXPECT_GE(state, 0);
        }
        inside.fetch_sub(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(state, kThreads * kCalls / 5);
}

}  // namespace
}  // namespace torchpool::testing
