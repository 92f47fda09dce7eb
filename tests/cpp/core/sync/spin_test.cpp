#include "core/sync/spin.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace torchpool {
namespace {

int left_out(SpinHistory& history) {
  int times = 0;
  while (!history.worth()) ++times;
  return times;
}

TEST(SpinHistory, TriesAtFirstAndAgainWhileItPays) {
  SpinHistory history;
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(history.worth());
    history.record(true);
  }
}

TEST(SpinHistory, LeavesOutTwiceAsManyEachTimeItDoesNotPay) {
  SpinHistory history;
  int before = 0;
  for (int i = 0; i < 5; ++i) {
    history.record(false);
    const int now = left_out(history);
    EXPECT_GE(now, 2 * before);
    EXPECT_GE(now, 1);
    before = now;
  }
}

TEST(SpinHistory, NeverGivesUpForGood) {
  SpinHistory history;
  for (int i = 0; i < 100; ++i) {
    history.record(false);
    EXPECT_LT(left_out(history), 600);
  }
}

TEST(SpinHistory, OneSuccessForgivesAll) {
  SpinHistory history;
  for (int i = 0; i < 20; ++i) history.record(false);
  history.record(true);
  EXPECT_TRUE(history.worth());
}

TimePoint at(int milliseconds) {
  return TimePoint{} + std::chrono::milliseconds(milliseconds);
}

TEST(Backoff, IsDueAtFirst) {
  EXPECT_TRUE(Backoff().due(at(0)));
}

TEST(Backoff, WaitsTwiceAsLongAfterEachFailureUpToALimit) {
  Backoff backoff;
  int now = 0;
  int before = 0;
  for (int i = 0; i < 30; ++i) {
    backoff.record(false, at(now));
    int pause = 0;
    while (!backoff.due(at(now + pause))) ++pause;
    EXPECT_GE(pause, before);
    EXPECT_LE(pause, 10'000);
    EXPECT_GE(pause, std::min(2 * before, 10'000));
    before = pause;
    now += pause;
  }
  EXPECT_EQ(before, 10'000);
}

TEST(Backoff, OneSuccessForgivesAll) {
  Backoff backoff;
  for (int i = 0; i < 20; ++i) backoff.record(false, at(0));
  backoff.record(true, at(0));
  EXPECT_FALSE(backoff.due(at(0)));
  EXPECT_TRUE(backoff.due(at(100)));
}

TEST(SpinSeat, HasRoomForOne) {
  SpinSeat seat;
  EXPECT_TRUE(seat.try_take());
  EXPECT_FALSE(seat.try_take());
  seat.leave();
  EXPECT_TRUE(seat.try_take());
}

TEST(SpinSeat, NeverSeatsTwoThreads) {
  SpinSeat seat;
  int seated = 0;  // written by whoever has the seat: the sanitizer sees it if two have
  std::atomic<int> times{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        if (!seat.try_take()) continue;
        ++seated;
        times.fetch_add(1);
        seat.leave();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(seated, times.load());
}

TEST(SpinUntil, EndsWhenItIsReady) {
  int polls = 0;
  EXPECT_TRUE(spin_until([&polls] { return ++polls == 100; }, std::chrono::hours(1)));
  EXPECT_EQ(polls, 100);
}

TEST(SpinUntil, EndsWhenTheTimeIsOver) {
  int polls = 0;
  EXPECT_FALSE(spin_until([&polls] { return ++polls < 0; }, Duration::zero()));
  EXPECT_GE(polls, 1);
}

TEST(SpinUntil, SeesAPermitOfAnotherThread) {
  Parker parker;
  std::thread other([&parker] { parker.unpark(); });
  EXPECT_TRUE(spin_until([&parker] { return parker.try_take(); }, std::chrono::hours(1)));
  other.join();
}

}  // namespace
}  // namespace torchpool
