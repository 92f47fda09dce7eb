#include "core/queue/admission_queue.h"
#include "core/sync/error.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Notes the mean time between arrivals that its queue tells it.
class GapPolicy : public BatchPolicy {
 public:
  explicit GapPolicy(Duration& seen) : seen_(seen) {}
  RowLimit rows(const QueueView& /*queue*/) override { return {}; }
  TimePoint hold_until(const QueueView& queue, TimePoint now) override {
    seen_ = queue.arrival_gap;
    return now;
  }

 private:
  Duration& seen_;
};

// What a queue makes of its policy and of what it knows of costs.
class QueuePolicyTest : public ::testing::Test {
 protected:
  std::shared_ptr<AdmissionQueue> make_queue(std::unique_ptr<BatchPolicy> policy = nullptr, QueueLimits limits = {}) {
    return std::make_shared<AdmissionQueue>(limits, clock_, stats_, std::move(policy), cost_);
  }
  static std::unique_ptr<BatchPolicy> fixed(std::int64_t rows, Duration delay) {
    return std::make_unique<HoldingPolicy>(rows, delay);
  }
  std::shared_ptr<TestRequest> push(AdmissionQueue& queue, const Spec& spec = {}, int id = 0) {
    auto request = make_request(spec, id);
    EXPECT_EQ(queue.push(request, Admission::kReject, kNever), PushResult::kAdmitted);
    return request;
  }
  // A batch of n rows takes n times this.
  void takes_a_row(Duration time) {
    for (std::int64_t rows = 1; rows <= 64; rows *= 2) {
      for (int i = 0; i < 8; ++i) cost_->record({.rows = rows, .items = rows}, time * rows, true);
    }
  }
  static Taken take(AdmissionQueue& queue, std::int64_t max_rows = 64, std::int64_t share_rows = 0) {
    Taken taken = queue.take({.batch = {.max_rows = max_rows, .share_rows = share_rows}});
    succeed_all(taken.batch);
    return taken;
  }

  ManualClock clock_;
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  std::shared_ptr<CostModel> cost_ = std::make_shared<CostModel>();
};

TEST_F(QueuePolicyTest, RowsThatFillABatchForEachWorkerAndTheNextOneAreOfUse) {
  const auto queue = make_queue(fixed(4, Duration::zero()));
  EXPECT_EQ(queue->useful_rows(), 0);
  push(*queue);
  EXPECT_EQ(queue->useful_rows(), 0);
  Taken taken = queue->take({.batch = {.max_rows = 64}, .workers = 2});
  succeed_all(taken.batch);
  EXPECT_EQ(queue->useful_rows(), 12);
}

TEST_F(QueuePolicyTest, APriorityBehindTenThousandOthersIsTakenFirst) {
  const auto queue = make_queue(nullptr, {.rows = 1 << 20});
  for (int i = 0; i < 10'000; ++i) push(*queue, {}, i);
  push(*queue, {.priority = 1}, 10'000);
  EXPECT_EQ(ids_of(take(*queue, 8).batch), (std::vector{10'000}));
  EXPECT_EQ(ids_of(take(*queue, 2).batch), (std::vector{0, 1}));
}

TEST_F(QueuePolicyTest, ADeadlineBehindTenThousandOthersIsTakenFirst) {
  const auto queue = make_queue(nullptr, {.rows = 1 << 20});
  for (int i = 0; i < 10'000; ++i) push(*queue, {}, i);
  push(*queue, {.deadline = clock_.now() + milliseconds(10)}, 10'000);
  EXPECT_EQ(ids_of(take(*queue, 2).batch), (std::vector{10'000, 0}));
}

TEST_F(QueuePolicyTest, WhatCannotBeMetEvenAloneIsDroppedEarly) {
  takes_a_row(milliseconds(10));
  const auto queue = make_queue();
  const auto hopeless = push(*queue, {.deadline = clock_.now() + milliseconds(9)}, 0);
  const auto possible = push(*queue, {.deadline = clock_.now() + milliseconds(11)}, 1);
  EXPECT_EQ(ids_of(take(*queue).batch), (std::vector{1}));
  EXPECT_TRUE(failed_with<DeadlineExceeded>(*hopeless));
  EXPECT_EQ(stats_->expired, 1u);
  EXPECT_EQ(stats_->queue_ns.snapshot().count, 1u);  // it cost no batch any room
  try {
    std::rethrow_exception(hopeless->error());
  } catch (const DeadlineExceeded& error) {
    EXPECT_NE(std::string(error.what()).find("9.0"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("10.0"), std::string::npos) << error.what();
  }
}

TEST_F(QueuePolicyTest, NothingIsGivenUpForWhatIsNotKnown) {
  const auto queue = make_queue();
  push(*queue, {.deadline = clock_.now() + Duration(1)}, 0);
  EXPECT_EQ(ids_of(take(*queue).batch), (std::vector{0}));
}

TEST_F(QueuePolicyTest, ACancelledOneWithADeadlineStaysCancelled) {
  const auto queue = make_queue();
  const auto request = push(*queue, {.deadline = clock_.now() + milliseconds(5)});
  EXPECT_TRUE(request->try_cancel());
  clock_.advance(milliseconds(5));
  EXPECT_TRUE(take(*queue).batch.empty());
  EXPECT_TRUE(failed_with<Cancelled>(*request));
  EXPECT_EQ(stats_->accepted, stats_->resolved());
}

TEST_F(QueuePolicyTest, HoldsUntilItsDelayOrItsRows) {
  const auto queue = make_queue(fixed(3, milliseconds(5)));
  const TimePoint start = clock_.now();
  push(*queue, {}, 0);
  clock_.advance(milliseconds(2));
  push(*queue, {}, 1);
  Taken taken = take(*queue);
  EXPECT_TRUE(taken.batch.empty());
  EXPECT_EQ(taken.hold_until, start + milliseconds(5));
  EXPECT_EQ(queue->hold_until({.batch = {.max_rows = 64}}), start + milliseconds(5));
  EXPECT_EQ(queue->waiting(), 2u);
  push(*queue, {}, 2);
  EXPECT_EQ(queue->hold_until({.batch = {.max_rows = 64}}), TimePoint{});
  EXPECT_EQ(ids_of(take(*queue).batch), (std::vector{0, 1, 2}));
  push(*queue, {}, 3);
  EXPECT_TRUE(take(*queue).batch.empty());
  clock_.advance(milliseconds(5));
  EXPECT_EQ(ids_of(take(*queue).batch), (std::vector{3}));
  EXPECT_EQ(queue->hold_until({.batch = {.max_rows = 64}}), TimePoint{});  // empty
}

TEST_F(QueuePolicyTest, HoldsNothingOnceItIsClosedOrItsPolicyGone) {
  const auto queue = make_queue(fixed(3, seconds(5)));
  push(*queue, {}, 0);
  ASSERT_TRUE(take(*queue).batch.empty());
  queue->set_policy(nullptr);
  EXPECT_EQ(ids_of(take(*queue).batch), (std::vector{0}));
  queue->set_policy(fixed(3, seconds(5)));
  push(*queue, {}, 1);
  ASSERT_TRUE(take(*queue).batch.empty());
  queue->close();
  EXPECT_EQ(queue->hold_until({.batch = {.max_rows = 64}}), TimePoint{});
  EXPECT_EQ(ids_of(take(*queue).batch), (std::vector{1}));
}

TEST_F(QueuePolicyTest, AHoldEndsInTimeForDeadlines) {
  takes_a_row(milliseconds(8));
  const auto queue = make_queue(fixed(8, milliseconds(100)));
  push(*queue, {.deadline = clock_.now() + milliseconds(50)});
  EXPECT_EQ(take(*queue).hold_until, clock_.now() + milliseconds(41));  // 8 ms and an eighth before
}

TEST_F(QueuePolicyTest, AHoldEndsInTimeForTheDeadlineOfALaterOne) {
  takes_a_row(milliseconds(4));
  const auto queue = make_queue(fixed(8, milliseconds(100)));
  push(*queue);
  push(*queue, {.priority = -1, .deadline = clock_.now() + milliseconds(50)});
  EXPECT_EQ(take(*queue).hold_until, clock_.now() + milliseconds(41));
}

// To wait until the deadline would let it expire, now and each time after, as its cost would never be learned.
TEST_F(QueuePolicyTest, WhatTakesNobodyKnowsHowLongIsNotHeldUntilItsDeadline) {
  const auto queue = make_queue(fixed(8, milliseconds(100)));
  push(*queue, {.deadline = clock_.now() + milliseconds(50)}, 0);
  EXPECT_EQ(ids_of(take(*queue).batch), (std::vector{0}));
  push(*queue, {.deadline = clock_.now() + milliseconds(500)}, 1);
  EXPECT_EQ(take(*queue).hold_until, clock_.now() + milliseconds(100));
}

TEST_F(QueuePolicyTest, WhereOthersWaitForRoomNoMoreIsWaitedFor) {
  const auto queue = make_queue(fixed(8, seconds(1)), {.rows = 2});
  push(*queue, {}, 0);
  push(*queue, {}, 1);
  ASSERT_TRUE(take(*queue).batch.empty());
  queue->push(make_request({}, 2), Admission::kLineUp, kNever);
  EXPECT_EQ(queue->hold_until({.batch = {.max_rows = 64}}), TimePoint{});
  EXPECT_EQ(ids_of(take(*queue).batch), (std::vector{0, 1}));
}

TEST_F(QueuePolicyTest, NoPolicyExceedsTheChannelsRows) {
  const auto queue = make_queue(fixed(64, Duration::zero()));
  for (int i = 0; i < 6; ++i) push(*queue, {}, i);
  EXPECT_EQ(ids_of(take(*queue, 4).batch), (std::vector{0, 1, 2, 3}));
}

TEST_F(QueuePolicyTest, FixedBatchesAreNotShared) {
  const auto queue = make_queue(fixed(4, Duration::zero()));
  for (int i = 0; i < 6; ++i) push(*queue, {}, i);
  EXPECT_EQ(ids_of(take(*queue, 64, 2).batch), (std::vector{0, 1, 2, 3}));
}

TEST_F(QueuePolicyTest, SharesUnlessAllCoresTogetherAreFaster) {
  const auto queue = make_queue(std::make_unique<LearnedPolicy>(cost_));
  const auto fill = [&] {
    while (queue->waiting() > 0) take(*queue);
    for (int i = 0; i < 8; ++i) push(*queue, {}, i);
  };
  fill();
  EXPECT_EQ(take(*queue, 64, 4).batch.size(), 4u);
  for (int i = 0; i < 8; ++i) {
    cost_->record({.rows = 4, .items = 4}, milliseconds(4), true);
    cost_->record({.rows = 8, .items = 8}, milliseconds(3), false);
  }
  fill();
  EXPECT_EQ(take(*queue, 64, 4).batch.size(), 8u);
}

TEST_F(QueuePolicyTest, AChunkBoundsSharesAndBatches) {
  const auto queue = make_queue(std::make_unique<LearnedPolicy>(cost_));
  const auto fill = [&](Schedule schedule, std::int64_t chunk) {
    while (queue->waiting() > 0) take(*queue);
    for (int i = 0; i < 12; ++i) {
      const auto request = make_request({}, i);
      request->info.schedule = schedule;
      request->info.chunk = chunk;
      queue->push(request, Admission::kReject, kNever);
    }
  };
  fill(Schedule::kGuided, 0);
  EXPECT_EQ(take(*queue, 64, 3).batch.size(), 3u);
  fill(Schedule::kGuided, 5);
  EXPECT_EQ(take(*queue, 64, 3).batch.size(), 5u);
  fill(Schedule::kDynamic, 5);
  EXPECT_EQ(take(*queue, 64, 3).batch.size(), 5u);
  fill(Schedule::kDynamic, 0);
  EXPECT_EQ(take(*queue, 64, 3).batch.size(), 12u);
}

// Of the request that runs first, whose length may not be that of the one which came first.
TEST_F(QueuePolicyTest, SizesAreThoseOfTheRequestThatRunsFirst) {
  cost_->record_out_of_memory(8, 128);  // 4 rows of 128 fit
  const auto queue = make_queue(std::make_unique<LearnedPolicy>(cost_));
  const auto add = [&](std::int64_t extent, TimePoint deadline) {
    const auto request = make_request({.length = extent, .deadline = deadline});
    request->info.extent = extent;
    queue->push(request, Admission::kReject, kNever);
  };
  for (int i = 0; i < 4; ++i) add(8, kNever);
  for (int i = 0; i < 8; ++i) add(128, clock_.now() + milliseconds(500));
  const Taken taken = take(*queue);
  EXPECT_EQ(taken.batch.cost_size().length, 128);
  EXPECT_EQ(taken.batch.rows(), 4);
}

TEST_F(QueuePolicyTest, ALimitIsLearnedFromOnlyWhereItWasChosen) {
  const auto queue = make_queue(std::make_unique<LearnedPolicy>(cost_));
  for (int i = 0; i < 40; ++i) push(*queue);
  TakeLimits limits;
  limits.batch.max_rows = 64;
  limits.workers = 8;
  Taken part = queue->take(limits);
  succeed_all(part.batch);
  EXPECT_EQ(part.batch.rows(), 8);
  EXPECT_EQ(part.limit, 0);
  limits.workers = 1;
  Taken whole = queue->take(limits);
  succeed_all(whole.batch);
  EXPECT_EQ(whole.batch.rows(), 32);
  EXPECT_EQ(make_queue()->take(limits).limit, 0);
}

TEST_F(QueuePolicyTest, KnowsTheMeanTimeBetweenArrivals) {
  Duration seen{};
  const auto queue = make_queue(std::make_unique<GapPolicy>(seen));
  const auto gap = [&] {
    seen = Duration::max();
    queue->hold_until({.batch = {.max_rows = 1024}});
    return seen;
  };
  push(*queue);
  EXPECT_EQ(gap(), Duration::zero());
  clock_.advance(milliseconds(16));
  push(*queue);
  EXPECT_EQ(gap(), milliseconds(16));
  clock_.advance(milliseconds(32));
  push(*queue);
  EXPECT_EQ(gap(), milliseconds(17));
  clock_.advance(seconds(60));  // a pause counts as 100 ms
  push(*queue);
  EXPECT_EQ(gap(), Duration(22'187'500));
  for (int i = 0; i < 200; ++i) {
    clock_.advance(milliseconds(2));
    push(*queue);
  }
  EXPECT_NEAR(static_cast<double>(gap().count()), 2e6, 1e4);
}

}  // namespace
}  // namespace torchpool::testing
