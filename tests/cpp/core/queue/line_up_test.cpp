#include <thread>

#include "core/queue/admission_queue.h"
#include "core/sync/error.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A queue of two rows, full from the start.
class LineUpTest : public ::testing::Test {
 protected:
  LineUpTest() {
    full_ = make_request({.rows = 2}, -1);
    queue_->push(full_, Admission::kReject, kNever);
  }
  std::shared_ptr<TestRequest> line_up(int id, const Spec& spec = {}) {
    auto request = make_request(spec, id);
    EXPECT_EQ(queue_->push(request, Admission::kLineUp, kNever), PushResult::kAdmitted);
    return request;
  }
  std::vector<int> take(std::int64_t max_rows = 2) {
    const Batch batch = queue_->take({.batch = {.max_rows = max_rows}}).batch;
    succeed_all(batch);
    return ids_of(batch);
  }
  void expect_all_resolved(std::uint64_t accepted) const {
    EXPECT_EQ(stats_->accepted, accepted);
    EXPECT_EQ(stats_->resolved(), accepted);
  }

  ManualClock clock_;
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  std::shared_ptr<AdmissionQueue> queue_ = std::make_shared<AdmissionQueue>(QueueLimits{.rows = 2}, clock_, stats_);
  std::shared_ptr<TestRequest> full_;
};

TEST_F(LineUpTest, IsAcceptedAtOnceAndTakesNoPlace) {
  const auto request = line_up(0);
  EXPECT_EQ(request->state(), RequestState::kQueued);
  EXPECT_EQ(stats_->accepted, 2u);
  EXPECT_EQ(queue_->waiting(), 1u);
  EXPECT_EQ(queue_->waiting_rows(), 2);
}

TEST_F(LineUpTest, TakesAPlaceWhereThereIsOne) {
  EXPECT_EQ(take(), (std::vector{-1}));
  line_up(0);
  EXPECT_EQ(queue_->waiting(), 1u);
}

TEST_F(LineUpTest, MovesUpInOrder) {
  for (int i = 0; i < 5; ++i) line_up(i);
  EXPECT_EQ(take(), (std::vector{-1}));
  EXPECT_EQ(queue_->waiting_rows(), 2);
  EXPECT_EQ(take(), (std::vector{0, 1}));
  EXPECT_EQ(take(), (std::vector{2, 3}));
  EXPECT_EQ(take(), (std::vector{4}));
  expect_all_resolved(6);
}

TEST_F(LineUpTest, ALaterOneThatWouldFitDoesNotOvertake) {
  line_up(0, {.rows = 2});
  line_up(1);
  EXPECT_THROW(queue_->push(make_request(), Admission::kReject, kNever), QueueFull);
  take();
  EXPECT_EQ(queue_->waiting_rows(), 2);
  EXPECT_EQ(take(), (std::vector{0}));
  EXPECT_EQ(take(), (std::vector{1}));
}

TEST_F(LineUpTest, ThreadsAndOthersStandInOneLine) {
  line_up(0, {.rows = 2});
  const auto blocked = make_request({.rows = 2}, 1);
  std::thread producer([&] { EXPECT_EQ(queue_->push(blocked, Admission::kBlock, kNever), PushResult::kAdmitted); });
  clock_.await_waiters(1);
  line_up(2, {.rows = 2});
  EXPECT_EQ(blocked->state(), RequestState::kCreated);
  EXPECT_EQ(take(), (std::vector{-1}));
  EXPECT_EQ(take(), (std::vector{0}));
  producer.join();
  EXPECT_EQ(take(), (std::vector{1}));
  EXPECT_EQ(take(), (std::vector{2}));
}

TEST_F(LineUpTest, TheCancelledLeaveTheLine) {
  const auto first = line_up(0);
  line_up(1);
  EXPECT_TRUE(first->try_cancel());
  queue_->forget(*first);
  take();
  EXPECT_EQ(take(), (std::vector{1}));
  expect_all_resolved(3);
}

TEST_F(LineUpTest, ACancelledHeadMakesRoomForASmallerOne) {
  EXPECT_EQ(take(), (std::vector{-1}));
  queue_->push(make_request({}, -2), Admission::kReject, kNever);  // one row of two is left
  const auto large = line_up(0, {.rows = 2});
  line_up(1);
  EXPECT_EQ(queue_->waiting(), 1u);
  EXPECT_TRUE(large->try_cancel());
  queue_->forget(*large);
  EXPECT_EQ(queue_->waiting(), 2u);
  EXPECT_EQ(take(), (std::vector{-2, 1}));
}

TEST_F(LineUpTest, OneCancelledBeforeItComesTakesNoPlace) {
  const auto cancelled = make_request();
  EXPECT_TRUE(cancelled->try_cancel());
  EXPECT_EQ(queue_->push(cancelled, Admission::kLineUp, kNever), PushResult::kAdmitted);
  take();
  EXPECT_EQ(queue_->waiting(), 0u);
  expect_all_resolved(2);
}

TEST_F(LineUpTest, ExpiresInLine) {
  DeadlineTimer timer(clock_);
  const auto late = line_up(0, {.deadline = clock_.now() + seconds(1)});
  line_up(1);
  timer.watch(late);
  clock_.await_timed_waiters(1);
  clock_.advance(seconds(1));
  wait(*late);
  EXPECT_TRUE(failed_with<DeadlineExceeded>(*late));
  take();
  EXPECT_EQ(take(), (std::vector{1}));
  expect_all_resolved(3);
}

TEST_F(LineUpTest, AnExpiredHeadMakesRoomForASmallerOne) {
  DeadlineTimer timer(clock_);
  EXPECT_EQ(take(), (std::vector{-1}));
  queue_->push(make_request({}, -2), Admission::kReject, kNever);  // one row of two is left
  const auto late = line_up(0, {.rows = 2, .deadline = clock_.now() + seconds(1)});
  line_up(1);
  EXPECT_EQ(queue_->waiting(), 1u);
  timer.watch(late);
  clock_.await_timed_waiters(1);
  clock_.advance(seconds(1));
  wait(*late);
  timer.stop();
  EXPECT_EQ(queue_->waiting(), 2u);
  EXPECT_EQ(take(), (std::vector{-2, 1}));
}

TEST_F(LineUpTest, ExpiredOnesThatNobodyWatchesAreNotRun) {
  const auto late = line_up(0, {.deadline = clock_.now() + seconds(1)});
  clock_.advance(seconds(1));
  take();
  EXPECT_EQ(take(), std::vector<int>{});
  EXPECT_TRUE(failed_with<DeadlineExceeded>(*late));
}

TEST_F(LineUpTest, ClosingLetsThemDrainAndRefusesTheRest) {
  line_up(0);
  std::thread producer([&] { EXPECT_THROW(queue_->push(make_request(), Admission::kBlock, kNever), Closed); });
  clock_.await_waiters(1);
  line_up(1);
  queue_->close();
  producer.join();
  EXPECT_THROW(queue_->push(make_request(), Admission::kLineUp, kNever), Closed);
  take();
  EXPECT_EQ(take(), (std::vector{0, 1}));
  expect_all_resolved(3);
}

TEST_F(LineUpTest, FailsWithWhatWaits) {
  const auto first = line_up(0);
  const auto second = line_up(1);
  EXPECT_TRUE(second->try_cancel());
  EXPECT_EQ(queue_->fail_waiting(std::make_exception_ptr(Closed("closed"))), 2u);
  EXPECT_TRUE(failed_with<Closed>(*full_));
  EXPECT_TRUE(failed_with<Closed>(*first));
  EXPECT_TRUE(failed_with<Cancelled>(*second));
  EXPECT_EQ(queue_->waiting(), 0u);
  expect_all_resolved(3);
}

TEST_F(LineUpTest, TheQueuesEndFailsThem) {
  const auto request = line_up(0);
  const std::weak_ptr<AdmissionQueue> gone = queue_;
  queue_.reset();
  ASSERT_TRUE(gone.expired());
  EXPECT_TRUE(failed_with<Closed>(*request));
  expect_all_resolved(2);
}

TEST_F(LineUpTest, WaitedFromItsArrivalOn) {
  line_up(0);
  clock_.advance(seconds(3));
  take();
  take();
  EXPECT_EQ(stats_->queue_ns.snapshot().sum, 6'000'000'000u);
}

// Whoever looks without a lock must not see the queue empty while the line moves up: it would take the channel out of
// the rotation with nobody to put it back.
TEST_F(LineUpTest, TheQueueNeverLooksEmptyWhileTheLineMovesUp) {
  constexpr int kRequests = 20'000;
  std::vector<std::shared_ptr<TestRequest>> requests{full_};
  for (int i = 0; i < kRequests; ++i) requests.push_back(line_up(i, {.rows = 2}));
  std::atomic<bool> ends{false};
  std::atomic<int> empty{0};
  run_threads(2, [&](int thread) {
    if (thread == 0) {
      while (!ends) {
        if (queue_->waiting() == 0 && !ends) ++empty;
      }
      return;
    }
    for (int i = 0; i < kRequests; ++i) {
      const auto& request = requests[static_cast<std::size_t>(i)];
      EXPECT_TRUE(request->try_cancel());
      queue_->forget(*request);
    }
    ends = true;
  });
  EXPECT_EQ(empty, 0);
  EXPECT_EQ(queue_->waiting(), 1u);
}

TEST_F(LineUpTest, EveryWayOutMayRace) {
  for (int round = 0; round < 100; ++round) {
    ManualClock clock;
    const auto stats = std::make_shared<ChannelStats>();
    const auto queue = std::make_shared<AdmissionQueue>(QueueLimits{.rows = 3}, clock, stats);
    std::atomic<int> resolutions{0};
    std::atomic<int> refused{0};
    constexpr int kEach = 60;
    run_threads(5, [&](int thread) {
      if (thread == 0) {
        for (int i = 0; i < 40; ++i) succeed_all(queue->take({.batch = {.max_rows = 2}}).batch);
        return;
      }
      if (thread == 1) {
        for (int i = 0; i < 20; ++i) clock.advance(milliseconds(1));
        if (round % 2 == 0) queue->close();
        queue->fail_waiting(std::make_exception_ptr(Closed("closed")));
        return;
      }
      for (int i = 0; i < kEach; ++i) {
        RequestInfo info;
        if (i % 3 == 0) info.deadline = clock.now() + milliseconds(1 + i % 5);
        const auto request = std::make_shared<TestRequest>(info, &resolutions);
        try {
          queue->push(request, Admission::kLineUp, kNever);
        } catch (const Error&) {
          ++refused;
          continue;
        }
        if (i % 4 == 0 && request->try_cancel()) queue->forget(*request);
      }
    });
    queue->fail_waiting(std::make_exception_ptr(Closed("closed")));
    EXPECT_EQ(stats->accepted, stats->resolved());
    EXPECT_EQ(stats->accepted + static_cast<std::uint64_t>(refused.load()), 3u * kEach);
    EXPECT_EQ(static_cast<std::uint64_t>(resolutions.load()), stats->accepted);
  }
}

}  // namespace
}  // namespace torchpool::testing
