#include "core/sync/completion.h"

#include <optional>

#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::seconds;

TEST(CompletionTest, ResolvedBeforeTheWaitNeedsNone) {
  Completion completion;
  EXPECT_FALSE(completion.done());
  completion.resolve();
  EXPECT_TRUE(completion.done());
  Parker parker;
  EXPECT_TRUE(completion.wait_until(parker, TimePoint{}));
}

TEST(CompletionTest, WakesItsWaiterAndShowsWhatWasWrittenBefore) {
  ManualClock clock;
  Completion completion;
  Parker parker(clock);
  int value = 0;
  std::thread other([&] {
    clock.await_waiters(1);
    value = 7;
    completion.resolve();
  });
  EXPECT_TRUE(completion.wait_until(parker, kNever));
  EXPECT_EQ(value, 7);
  other.join();
}

TEST(CompletionTest, AWaiterThatTimesOutMayComeBack) {
  ManualClock clock;
  Completion completion;
  Parker parker(clock);
  EXPECT_FALSE(completion.wait_until(parker, clock.now()));
  EXPECT_FALSE(completion.done());
  completion.resolve();
  EXPECT_TRUE(completion.wait_until(parker, kNever));
}

TEST(CompletionTest, AStalePermitDoesNotLookLikeAResult) {
  ManualClock clock;
  Completion completion;
  Parker parker(clock);
  parker.unpark();
  EXPECT_FALSE(completion.wait_until(parker, clock.now()));
}

// The parker dies with the waiter's scope, so a resolver that had read its address would touch freed memory.
TEST(CompletionTest, TimeOutAndResolutionRaceForTheParker) {
  for (int round = 0; round < 2000; ++round) {
    ManualClock clock;
    Completion completion;
    std::atomic<int> ready{0};
    const auto meet = [&] {
      ++ready;
      while (ready.load() < 3) std::this_thread::yield();
    };
    std::thread waiter([&] {
      auto parker = std::make_optional<Parker>(clock);
      meet();
      const bool resolved = completion.wait_until(*parker, clock.now() + seconds(round % 2));
      parker.reset();
      EXPECT_LE(resolved, completion.done());
    });
    std::thread turner([&] {
      meet();
      clock.advance(seconds(1));
    });
    meet();
    completion.resolve();
    waiter.join();
    turner.join();
    EXPECT_TRUE(completion.done());
  }
}

TEST(CompletionTest, OneParkerServesManyWaits) {
  Parker parker;
  for (int i = 0; i < 3000; ++i) {
    auto completion = std::make_shared<Completion>();
    std::thread other([completion] { completion->resolve(); });
    ASSERT_TRUE(completion->wait_until(parker, kNever));
    ASSERT_TRUE(completion->done());
    other.join();
  }
}

}  // namespace
}  // namespace torchpool::testing
