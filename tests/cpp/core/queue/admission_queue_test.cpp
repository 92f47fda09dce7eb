#include "core/queue/admission_queue.h"

#include "core/sync/error.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::seconds;

class AdmissionQueueTest : public ::testing::Test {
 protected:
  std::shared_ptr<AdmissionQueue> make_queue(QueueLimits limits = {}) {
    return std::make_shared<AdmissionQueue>(limits, clock_, stats_);
  }
  std::shared_ptr<TestRequest> push(AdmissionQueue& queue, const Spec& spec = {}, int id = 0,
                                    Admission admission = Admission::kBlock) {
    auto request = make_request(spec, id);
    EXPECT_EQ(queue.push(request, admission, kNever), PushResult::kAdmitted);
    return request;
  }
  static std::vector<int> take(AdmissionQueue& queue, const BatchLimits& limits) {
    const Batch batch = queue.take({.batch = limits}).batch;
    succeed_all(batch);
    return ids_of(batch);
  }

  ManualClock clock_;
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
};

TEST_F(AdmissionQueueTest, TakesInOrderOfArrival) {
  const auto queue = make_queue();
  for (int i = 0; i < 5; ++i) push(*queue, {}, i);
  EXPECT_EQ(queue->waiting(), 5u);
  EXPECT_EQ(take(*queue, {.max_rows = 3}), (std::vector{0, 1, 2}));
  EXPECT_EQ(queue->waiting_rows(), 2);
  EXPECT_EQ(take(*queue, {.max_rows = 3}), (std::vector{3, 4}));
  EXPECT_TRUE(queue->take({.batch = {.max_rows = 3}}).batch.empty());
  EXPECT_EQ(stats_->accepted, 5u);
  EXPECT_EQ(stats_->succeeded, 5u);
}

TEST_F(AdmissionQueueTest, RecordsHowLongRequestsWaited) {
  const auto queue = make_queue();
  push(*queue);
  clock_.advance(seconds(1));
  take(*queue, {.max_rows = 1});
  EXPECT_EQ(stats_->queue_ns.snapshot().count, 1u);
  EXPECT_EQ(stats_->queue_ns.snapshot().sum, 1000000000u);
}

TEST_F(AdmissionQueueTest, MixedKeysLeaveInTurn) {
  const auto queue = make_queue();
  for (int i = 0; i < 6; ++i) push(*queue, {.key = static_cast<std::uint64_t>(i % 2)}, i);
  EXPECT_EQ(take(*queue, {.max_rows = 8}), (std::vector{0, 2, 4}));
  EXPECT_EQ(take(*queue, {.max_rows = 8}), (std::vector{1, 3, 5}));
}

TEST_F(AdmissionQueueTest, ALaterPriorityOvertakes) {
  const auto queue = make_queue();
  push(*queue, {}, 0);
  push(*queue, {.priority = 3}, 1);
  EXPECT_EQ(take(*queue, {.max_rows = 8}), (std::vector{1}));
  EXPECT_EQ(take(*queue, {.max_rows = 8}), (std::vector{0}));
}

TEST_F(AdmissionQueueTest, OnlyTheWindowAtTheHeadIsPacked) {
  const auto queue = make_queue();
  push(*queue, {.key = 1}, 0);
  for (int i = 1; i < 64; ++i) push(*queue, {.key = 2}, i);
  push(*queue, {.key = 1}, 64);  // one beyond the window of 64
  EXPECT_EQ(take(*queue, {.max_rows = 8}), (std::vector{0}));
}

// With a stream of requests that would always pack better, the odd one still leaves within a batch of its
// turn.
TEST_F(AdmissionQueueTest, NearLengthsStarveNobody) {
  const auto queue = make_queue();
  push(*queue, {.length = 10}, 0);
  push(*queue, {.length = 500}, 999);
  for (int i = 1; i < 40; ++i) push(*queue, {.length = 10}, i);
  EXPECT_EQ(take(*queue, {.max_rows = 4}), (std::vector{0, 1, 2, 3}));
  for (int i = 40; i < 60; ++i) push(*queue, {.length = 10}, i);
  EXPECT_EQ(take(*queue, {.max_rows = 4}), (std::vector{999}));
  EXPECT_EQ(take(*queue, {.max_rows = 4}), (std::vector{4, 5, 6, 7}));
}

TEST_F(AdmissionQueueTest, CancelledRequestsLeaveBeforeTheyCost) {
  const auto queue = make_queue();
  const auto first = push(*queue, {}, 0);
  push(*queue, {}, 1);
  EXPECT_TRUE(first->try_cancel());
  EXPECT_EQ(take(*queue, {.max_rows = 8}), (std::vector{1}));
  EXPECT_EQ(stats_->accepted, stats_->resolved());
}

TEST_F(AdmissionQueueTest, ARequestCancelledBeforeItHasAPlaceTakesNone) {
  const auto queue = make_queue({.rows = 1});
  const auto cancelled = make_request();
  EXPECT_TRUE(cancelled->try_cancel());
  EXPECT_EQ(queue->push(cancelled, Admission::kBlock, kNever), PushResult::kAdmitted);
  EXPECT_EQ(queue->waiting(), 0u);
  EXPECT_EQ(stats_->accepted, stats_->resolved());
}

TEST_F(AdmissionQueueTest, ExpiredRequestsLeaveBeforeTheyCost) {
  const auto queue = make_queue();
  const auto late = push(*queue, {.deadline = clock_.now() + seconds(1)}, 0);
  push(*queue, {.deadline = clock_.now() + seconds(2)}, 1);
  clock_.advance(seconds(1));
  EXPECT_EQ(take(*queue, {.max_rows = 8}), (std::vector{1}));
  EXPECT_TRUE(failed_with<DeadlineExceeded>(*late));
}

TEST_F(AdmissionQueueTest, TakesOnPastAWindowOfCancelledOnes) {
  const auto queue = make_queue();
  for (int i = 0; i < 300; ++i) push(*queue, {.key = static_cast<std::uint64_t>(i)}, i)->try_cancel();
  push(*queue, {}, 300);
  EXPECT_EQ(take(*queue, {.max_rows = 8}), (std::vector{300}));
  EXPECT_EQ(queue->waiting(), 0u);
}

TEST_F(AdmissionQueueTest, ForgetGivesThePlaceBackAtOnce) {
  const auto queue = make_queue({.rows = 1});
  const auto first = push(*queue);
  EXPECT_THROW(queue->push(make_request(), Admission::kReject, kNever), QueueFull);
  EXPECT_TRUE(first->try_cancel());
  queue->forget(*first);
  queue->forget(*first);
  EXPECT_EQ(queue->waiting_rows(), 0);
  push(*queue);
  EXPECT_EQ(stats_->rejected, 1u);
  EXPECT_EQ(stats_->accepted, 2u);
}

TEST_F(AdmissionQueueTest, ATryThatFindsNoRoomIsNotCountedAsRejected) {
  const auto queue = make_queue({.rows = 1});
  push(*queue);
  EXPECT_THROW(queue->push(make_request(), Admission::kTry, kNever), QueueFull);
  EXPECT_EQ(stats_->rejected, 0u);
  EXPECT_EQ(stats_->accepted, 1u);
}

TEST_F(AdmissionQueueTest, BoundsRowsAndBytes) {
  const auto queue = make_queue({.rows = 4, .bytes = 100});
  push(*queue, {.rows = 3, .bytes = 50});
  EXPECT_THROW(queue->push(make_request({.rows = 2}), Admission::kReject, kNever), QueueFull);
  EXPECT_THROW(queue->push(make_request({.bytes = 51}), Admission::kReject, kNever), QueueFull);
  push(*queue, {.rows = 1, .bytes = 50});
}

TEST_F(AdmissionQueueTest, AnEmptyQueueAdmitsWhatIsLargerThanItsBounds) {
  const auto queue = make_queue({.rows = 4, .bytes = 100});
  push(*queue, {.rows = 9, .bytes = 500}, 7);
  EXPECT_THROW(queue->push(make_request(), Admission::kReject, kNever), QueueFull);
  EXPECT_EQ(take(*queue, {.max_rows = 2}), (std::vector{7}));
}

TEST_F(AdmissionQueueTest, RefusesWhatIsLateOrSubmittedTwice) {
  const auto queue = make_queue();
  EXPECT_THROW(queue->push(make_request({.deadline = clock_.now()}), Admission::kBlock, kNever), DeadlineExceeded);
  const auto request = push(*queue);
  EXPECT_THROW(queue->push(request, Admission::kBlock, kNever), std::logic_error);
  EXPECT_EQ(stats_->accepted, 1u);
}

TEST_F(AdmissionQueueTest, ClosedRefusesAndLetsTheRestDrain) {
  const auto queue = make_queue();
  push(*queue, {}, 3);
  queue->close();
  queue->close();
  EXPECT_THROW(queue->push(make_request(), Admission::kLineUp, kNever), Closed);
  EXPECT_EQ(take(*queue, {.max_rows = 8}), (std::vector{3}));
}

TEST_F(AdmissionQueueTest, FailsWhatWaits) {
  const auto queue = make_queue();
  const auto first = push(*queue);
  const auto second = push(*queue);
  second->try_cancel();
  EXPECT_EQ(queue->fail_waiting(std::make_exception_ptr(Closed("closed"))), 1u);
  EXPECT_TRUE(failed_with<Closed>(*first));
  EXPECT_TRUE(failed_with<Cancelled>(*second));
  EXPECT_EQ(queue->waiting_rows(), 0);
}

TEST_F(AdmissionQueueTest, ItsDestructorLeavesNobodyWaiting) {
  std::shared_ptr<TestRequest> request;
  {
    const auto queue = make_queue();
    request = push(*queue);
  }
  EXPECT_TRUE(failed_with<Closed>(*request));
}

// A request's destructor may call back, so none may run under the queue's lock.
class CallingBack : public Request {
 public:
  explicit CallingBack(AdmissionQueue& queue) : Request(RequestInfo{}), queue_(queue) {}
  ~CallingBack() override { queue_.fail_waiting(nullptr); }

 protected:
  void on_resolved() noexcept override { queue_.close(); }

 private:
  AdmissionQueue& queue_;
};

TEST_F(AdmissionQueueTest, ResolvesAndDestroysOutsideItsLock) {
  for (int way = 0; way < 4; ++way) {
    const auto queue = make_queue();
    std::shared_ptr<Request> request = std::make_shared<CallingBack>(*queue);
    queue->push(request, Admission::kBlock, kNever);
    if (way < 2) request->try_cancel();
    const Request& forgotten = *request;
    if (way != 1) request.reset();  // the queue is the last owner
    if (way < 2) queue->forget(forgotten);
    if (way == 2) queue->fail_waiting(std::make_exception_ptr(Closed("closed")));
    if (way == 3) static_cast<void>(queue->take({.batch = {.max_rows = 1}}));
    EXPECT_EQ(queue->waiting(), 0u);
  }
}

TEST_F(AdmissionQueueTest, CancelForgetAndTakeRace) {
  const auto queue = make_queue();
  std::vector<std::shared_ptr<TestRequest>> requests;
  for (int i = 0; i < 3000; ++i) requests.push_back(push(*queue, {.key = static_cast<std::uint64_t>(i % 3)}));
  run_threads(4, [&](int thread) {
    if (thread < 2) {
      for (;;) {
        const Batch batch = queue->take({.batch = {.max_rows = 4}}).batch;
        if (batch.empty()) return;
        succeed_all(batch);
      }
    }
    for (const auto& request : requests) {
      if (request->try_cancel()) queue->forget(*request);
    }
  });
  EXPECT_EQ(queue->waiting(), 0u);
  EXPECT_EQ(queue->waiting_rows(), 0);
  EXPECT_EQ(stats_->accepted, 3000u);
  EXPECT_EQ(stats_->resolved(), 3000u);
}

}  // namespace
}  // namespace torchpool::testing
