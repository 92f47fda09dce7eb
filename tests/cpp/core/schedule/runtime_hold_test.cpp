#include <functional>
#include <utility>

#include "core/schedule/runtime.h"
#include "core/sync/error.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

struct Start {
  std::vector<int> ids;
  Duration at;
  bool operator==(const Start&) const = default;
};

// Batches of three after 5 ms, on a clock that only the test turns. A worker that waits on it with a limit is the one
// that keeps the time of a channel on hold.
class RuntimeHoldTest : public ::testing::Test {
 protected:
  std::shared_ptr<Channel> open_held(Runtime& runtime, std::int64_t rows = 3, Duration delay = milliseconds(5)) {
    ChannelOptions options = with_rows(8);
    options.make_policy = [=](const auto&) { return std::make_unique<HoldingPolicy>(rows, delay); };
    return runtime.open(options, handler_, stats_);
  }
  static std::shared_ptr<TestRequest> submit(Channel& channel, int id) {
    auto request = make_request({}, id);
    EXPECT_EQ(channel.submit(request, Admission::kReject, kNever), PushResult::kAdmitted);
    return request;
  }

  ManualClock clock_;
  const TimePoint start_ = clock_.now();
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  Log<Start> starts_;
  TestHandler handler_{[this](const Batch& batch, WorkerContext&) {
    starts_.add({ids_of(batch), clock_.now() - start_});
    succeed_all(batch);
    return Step::done();
  }};
};

TEST_F(RuntimeHoldTest, ALoneCallStartsExactlyAfterItsDelay) {
  Runtime runtime(with_workers(2, &clock_));
  const auto channel = open_held(runtime);
  const auto request = submit(*channel, 0);
  clock_.await_timed_waiters(1);
  clock_.advance(milliseconds(5) - Duration(1));
  EXPECT_EQ(request->state(), RequestState::kQueued);
  clock_.advance(Duration(1));
  wait(*request);
  EXPECT_EQ(starts_.values(), (std::vector{Start{{0}, milliseconds(5)}}));
}

TEST_F(RuntimeHoldTest, TheDelayIsThatOfTheOldest) {
  Runtime runtime(with_workers(1, &clock_));
  const auto channel = open_held(runtime);
  submit(*channel, 0);
  clock_.await_timed_waiters(1);
  clock_.advance(milliseconds(3));
  const auto later = submit(*channel, 1);
  clock_.await_timed_waiters(1);
  clock_.advance(milliseconds(2));
  wait(*later);
  EXPECT_EQ(starts_.values(), (std::vector{Start{{0, 1}, milliseconds(5)}}));
}

TEST_F(RuntimeHoldTest, AFullBatchStartsAtOnce) {
  Runtime runtime(with_workers(2, &clock_));
  const auto channel = open_held(runtime);
  submit(*channel, 0);
  clock_.await_timed_waiters(1);
  submit(*channel, 1);
  const auto last = submit(*channel, 2);
  wait(*last);
  EXPECT_EQ(starts_.values(), (std::vector{Start{{0, 1, 2}, Duration::zero()}}));
}

TEST_F(RuntimeHoldTest, ClosingFailsOrDrainsWhatIsHeld) {
  Runtime runtime(with_workers(1, &clock_));
  for (const bool fails : {true, false}) {
    const auto channel = open_held(runtime);
    const auto request = submit(*channel, 0);
    clock_.await_timed_waiters(1);
    channel->close(fails);
    EXPECT_TRUE(channel->wait_drained(kNever));
    EXPECT_EQ(failed_with<Closed>(*request), fails);
  }
  EXPECT_EQ(starts_.values(), (std::vector{Start{{0}, Duration::zero()}}));
  EXPECT_EQ(stats_->accepted, stats_->resolved());
}

TEST_F(RuntimeHoldTest, TheRuntimesEndFailsWhatIsHeld) {
  Runtime runtime(with_workers(2, &clock_));
  const auto channel = open_held(runtime);
  const auto request = submit(*channel, 0);
  clock_.await_timed_waiters(1);
  runtime.close();
  EXPECT_TRUE(failed_with<Closed>(*request));
  EXPECT_TRUE(channel->wait_drained(kNever));
}

TEST_F(RuntimeHoldTest, AnotherPolicyEndsTheHold) {
  Runtime runtime(with_workers(1, &clock_));
  const auto channel = open_held(runtime);
  const auto request = submit(*channel, 0);
  clock_.await_timed_waiters(1);
  channel->set_policy(nullptr);
  wait(*request);
  EXPECT_EQ(starts_.values(), (std::vector{Start{{0}, Duration::zero()}}));
}

TEST_F(RuntimeHoldTest, CancellingTheLastOneLeavesNothingToWaitFor) {
  Runtime runtime(with_workers(1, &clock_));
  const auto channel = open_held(runtime);
  const auto cancelled = submit(*channel, 0);
  clock_.await_timed_waiters(1);
  EXPECT_TRUE(channel->cancel(*cancelled));
  EXPECT_TRUE(channel->wait_drained(kNever));
  // The next one has a delay of its own, though the worker still sleeps until the first one's.
  clock_.advance(milliseconds(1));
  const auto next = submit(*channel, 1);
  clock_.advance(milliseconds(4));
  clock_.await_timed_waiters(1);
  EXPECT_FALSE(next->done());
  clock_.advance(milliseconds(1));
  wait(*next);
  EXPECT_EQ(starts_.values(), (std::vector{Start{{1}, milliseconds(6)}}));
}

TEST_F(RuntimeHoldTest, OthersRunMeanwhileAndTheTimeIsStillKept) {
  Runtime runtime(with_workers(1, &clock_));
  const auto held = open_held(runtime);
  const auto other = runtime.open(with_rows(1), handler_, nullptr);
  const auto request = submit(*held, 0);
  for (int i = 10; i < 13; ++i) {
    clock_.await_timed_waiters(1);
    wait(*submit(*other, i));
  }
  clock_.await_timed_waiters(1);
  clock_.advance(milliseconds(5));
  wait(*request);
  EXPECT_EQ(starts_.values(),
            (std::vector{Start{{10}, {}}, Start{{11}, {}}, Start{{12}, {}}, Start{{0}, milliseconds(5)}}));
}

// One worker is parked until the held channel is due, the others without a limit; those that are woken for other work
// leave the time to one that is not.
TEST_F(RuntimeHoldTest, TheTimeIsHandedOverWhenItsKeeperIsBusy) {
  Gate gate;
  TestHandler blocking([&](const Batch& batch, WorkerContext&) {
    gate.enter();
    succeed_all(batch);
    return Step::done();
  });
  Runtime runtime(with_workers(2, &clock_));
  const auto held = open_held(runtime);
  const auto other = runtime.open(with_rows(1), blocking, nullptr);
  const auto request = submit(*held, 0);
  clock_.await_timed_waiters(1);
  clock_.await_waiters(2);  // both are parked: the one that keeps the time came last or is woken by the other's end
  submit(*other, 1);
  gate.await(1);
  clock_.await_timed_waiters(1);
  clock_.advance(milliseconds(5));
  gate.release();
  wait(*request);
  EXPECT_TRUE(other->wait_drained(kNever));
  EXPECT_EQ(starts_.values(), (std::vector{Start{{0}, milliseconds(5)}}));
}

TEST_F(RuntimeHoldTest, SeveralChannelsAreHeldEachUntilItsTime) {
  Runtime runtime(with_workers(2, &clock_));
  const auto late = open_held(runtime, 3, milliseconds(9));
  const auto early = open_held(runtime, 3, milliseconds(4));
  const auto last = submit(*late, 1);
  clock_.await_timed_waiters(1);
  const auto first = submit(*early, 2);
  clock_.await_timed_waiters(1);
  clock_.advance(milliseconds(4));
  wait(*first);
  clock_.await_timed_waiters(1);
  clock_.advance(milliseconds(5));
  wait(*last);
  EXPECT_EQ(starts_.values(), (std::vector{Start{{2}, milliseconds(4)}, Start{{1}, milliseconds(9)}}));
}

TEST_F(RuntimeHoldTest, ShrinkingLeavesTheTimeToAWorkerThatStays) {
  Runtime runtime(with_workers(4, &clock_));
  const auto channel = open_held(runtime);
  const auto request = submit(*channel, 0);
  clock_.await_timed_waiters(1);
  runtime.resize(1, 1);
  clock_.await_timed_waiters(1);
  clock_.advance(milliseconds(5));
  wait(*request);
}

// Left between a worker's look at the queue and its putting the channel on hold.
class CallingGate : public LaneGate {
 public:
  void enter() override {}
  void leave() noexcept override {
    if (on_leave) std::exchange(on_leave, nullptr)();
  }
  std::function<void()> on_leave;
};

TEST_F(RuntimeHoldTest, WhatComesJustBeforeTheHoldEndsIt) {
  for (const bool closes : {false, true}) {
    CallingGate gate;
    RuntimeOptions options = with_workers(1, &clock_);
    options.interpreter.gate = &gate;
    Runtime runtime(options);
    ChannelOptions held = with_rows(8);
    held.lane = Lane::kInterpreter;
    held.make_policy = [](const auto&) { return std::make_unique<HoldingPolicy>(2, hours(1)); };
    const auto channel = runtime.open(held, handler_, stats_);
    gate.on_leave = [&] { closes ? channel->close(false) : static_cast<void>(submit(*channel, 1)); };
    wait(*submit(*channel, 0));
  }
  EXPECT_EQ(starts_.values(), (std::vector{Start{{0, 1}, {}}, Start{{0}, {}}}));
}

// The one that fills a batch may come while a worker, having looked at the queue, is about to put the channel on hold.
// The clock stands still: a call that is missed then is never run.
TEST_F(RuntimeHoldTest, ACallThatFillsTheBatchIsNotMissed) {
  for (const int workers : {1, 2}) {
    Runtime runtime(with_workers(workers, &clock_));
    const auto channel = open_held(runtime, 2, hours(1));
    for (int round = 0; round < 3'000; ++round) {
      run_threads(2, [&](int id) { wait(*submit(*channel, id)); });
    }
  }
  EXPECT_EQ(stats_->succeeded, 12'000u);
}

TEST_F(RuntimeHoldTest, ClosingIsNotMissedEither) {
  Runtime runtime(with_workers(1, &clock_));
  for (int round = 0; round < 1'000; ++round) {
    const auto channel = open_held(runtime, 2, hours(1));
    submit(*channel, 0);
    channel->close(false);
    EXPECT_TRUE(channel->wait_drained(kNever));
  }
  EXPECT_EQ(stats_->succeeded, 1'000u);
}

}  // namespace
}  // namespace torchpool::testing
