#include "core/batch/formed_batch.h"

#include "core/schedule/runtime.h"
#include "core/sync/error.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::seconds;

// One worker on a clock that only the test turns; a batch that begins with a negative id waits at the gate.
class FormedBatchTest : public ::testing::Test {
 protected:
  // Occupies the worker.
  void block() {
    submit(-1);
    gate_.await(1);
  }
  std::shared_ptr<TestRequest> submit(int id) {
    auto request = make_request({}, id);
    EXPECT_EQ(channel_->submit(request, Admission::kReject, kNever), PushResult::kAdmitted);
    return request;
  }
  std::vector<std::shared_ptr<TestRequest>> submit_batch(int requests, const Spec& spec = {}) {
    std::vector<std::shared_ptr<TestRequest>> made;
    for (int i = 0; i < requests; ++i) made.push_back(make_request(spec, i));
    channel_->submit_batch({made.begin(), made.end()});
    return made;
  }
  void run_all() {
    gate_.release();
    EXPECT_TRUE(channel_->wait_drained(kNever));
    EXPECT_EQ(stats_->accepted, stats_->resolved());
  }
  using Batches = std::vector<std::vector<int>>;

  ManualClock clock_;
  Gate gate_;
  Log<std::vector<int>> seen_;
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  TestHandler handler_{[this](const Batch& batch, WorkerContext&) {
    if (id_of(batch.requests()[0]) < 0) {
      gate_.enter();
    } else {
      seen_.add(ids_of(batch));
    }
    succeed_all(batch);
    return Step::done();
  }};
  Runtime runtime_{with_workers(1, &clock_)};
  std::shared_ptr<Channel> channel_ = [this] {
    ChannelOptions options = with_rows(2);
    options.limits.rows = 2;
    return runtime_.open(options, handler_, stats_);
  }();
};

TEST_F(FormedBatchTest, RunsTogetherBeyondTheQueuesAndTheBatchesBounds) {
  block();
  const auto requests = submit_batch(5);
  for (const auto& request : requests) EXPECT_EQ(request->state(), RequestState::kQueued);
  EXPECT_EQ(channel_->waiting_rows(), 0);
  EXPECT_EQ(channel_->running(), 2);
  submit(10);
  submit(11);  // the queue has room for two
  run_all();
  EXPECT_EQ(seen_.values(), (Batches{{0, 1, 2, 3, 4}, {10, 11}}));
  EXPECT_EQ(stats_->batch_rows.snapshot().count, 3u);
  EXPECT_EQ(stats_->succeeded, 8u);
}

TEST_F(FormedBatchTest, WaitsFromItsSubmissionOn) {
  block();
  submit_batch(2);
  clock_.advance(seconds(3));
  run_all();
  EXPECT_EQ(stats_->queue_ns.snapshot().sum, 6'000'000'000u);
}

TEST_F(FormedBatchTest, EachMayBeCancelledUntilItsTurn) {
  block();
  const auto requests = submit_batch(3);
  EXPECT_TRUE(channel_->cancel(*requests[1]));
  EXPECT_TRUE(failed_with<Cancelled>(*requests[1]));
  run_all();
  EXPECT_EQ(seen_.values(), (Batches{{0, 2}}));
  EXPECT_FALSE(channel_->cancel(*requests[0]));
}

TEST_F(FormedBatchTest, NothingRunsWhereAllWereCancelled) {
  block();
  for (const auto& request : submit_batch(3)) EXPECT_TRUE(channel_->cancel(*request));
  run_all();
  EXPECT_TRUE(seen_.values().empty());
  EXPECT_EQ(stats_->cancelled, 3u);
}

TEST_F(FormedBatchTest, OneCancelledBeforehandIsLeftOut) {
  const auto cancelled = make_request({}, 0);
  const auto other = make_request({}, 1);
  EXPECT_TRUE(cancelled->try_cancel());
  block();
  channel_->submit_batch({cancelled, other});
  run_all();
  EXPECT_EQ(seen_.values(), (Batches{{1}}));
}

TEST_F(FormedBatchTest, ExpiresWhileItWaitsWatchedOrNot) {
  block();
  const auto watched = make_request({.deadline = clock_.now() + seconds(1)}, 0);
  const auto unwatched = make_request({.deadline = clock_.now() + seconds(1)}, 1);
  const auto patient = make_request({.deadline = clock_.now() + seconds(2)}, 2);
  channel_->submit_batch({watched, unwatched, patient});
  runtime_.watch_deadline(watched);
  clock_.await_timed_waiters(1);
  clock_.advance(seconds(1));
  wait(*watched);
  EXPECT_TRUE(failed_with<DeadlineExceeded>(*watched));
  EXPECT_EQ(unwatched->state(), RequestState::kQueued);
  run_all();
  EXPECT_TRUE(failed_with<DeadlineExceeded>(*unwatched));
  EXPECT_EQ(seen_.values(), (Batches{{2}}));
}

TEST_F(FormedBatchTest, AClosedChannelRefusesAndFailsThem) {
  block();
  channel_->close(false);
  const auto request = make_request();
  EXPECT_THROW(channel_->submit_batch({request}), Closed);
  EXPECT_TRUE(failed_with<Closed>(*request));
  EXPECT_EQ(stats_->failed, 1u);
  run_all();
}

TEST_F(FormedBatchTest, ClosingTheChannelDrainsThem) {
  block();
  submit_batch(2);
  channel_->close(false);
  run_all();
  EXPECT_EQ(seen_.values(), (Batches{{0, 1}}));
}

TEST_F(FormedBatchTest, ClosingTheChannelMayFailThem) {
  block();
  const auto requests = submit_batch(2);
  channel_->close(true);
  run_all();
  EXPECT_TRUE(seen_.values().empty());
  for (const auto& request : requests) EXPECT_TRUE(failed_with<Closed>(*request));
}

TEST_F(FormedBatchTest, TheRuntimesEndFailsThemAtOnce) {
  block();
  const auto requests = submit_batch(2);
  std::thread closing([&] { runtime_.close(); });
  for (const auto& request : requests) {
    wait(*request);  // though a batch still runs
    EXPECT_TRUE(failed_with<Closed>(*request));
  }
  gate_.release();
  closing.join();
  EXPECT_EQ(channel_->running(), 0);
  EXPECT_EQ(stats_->accepted, stats_->resolved());
  EXPECT_THROW(submit_batch(1), Closed);
}

// A map that hands over the next batch when one begins keeps as many running as there are workers.
TEST_F(FormedBatchTest, ThoseThatWaitDoNotKeepCallsFromRunning) {
  std::shared_ptr<Channel> channel;
  std::atomic<int> batches{0};
  std::atomic<bool> called{false};
  TestHandler mapping([&](const Batch& batch, WorkerContext&) {
    const int id = id_of(batch.requests()[0]);
    if (id < 0) gate_.enter();
    if (id == 7) called = true;
    if (id == 0 && !called && ++batches < 1'000) channel->submit_batch({make_request({}, 0)});
    succeed_all(batch);
    return Step::done();
  });
  channel = runtime_.open(with_rows(1), mapping, stats_);
  channel->submit(make_request({}, -1), Admission::kReject, kNever);
  gate_.await(1);
  for (int i = 0; i < 3; ++i) channel->submit_batch({make_request({}, 0)});
  const auto call = make_request({}, 7);
  channel->submit(call, Admission::kReject, kNever);
  gate_.release();
  wait(*call);
  EXPECT_TRUE(channel->wait_drained(kNever));
  EXPECT_LT(batches, 10);
}

class ThrowingHandler : public BatchHandler {
 public:
  std::unique_ptr<Task> make_task(Batch batch) override {
    if (batch.size() == 2) throw std::runtime_error("no task for two");
    return nullptr;
  }
};

TEST(FormedBatchFaultTest, AHandlerThatMakesNoTaskLeavesNobodyWaiting) {
  Runtime runtime(with_workers(1));
  ThrowingHandler handler;
  const auto stats = std::make_shared<ChannelStats>();
  const auto channel = runtime.open(with_rows(4), handler, stats);
  const std::vector<RequestPtr> two{make_request(), make_request()};
  channel->submit_batch(two);
  const std::vector<RequestPtr> one{make_request()};
  channel->submit_batch(one);
  EXPECT_TRUE(channel->wait_drained(kNever));
  for (const RequestPtr& request : two) EXPECT_TRUE(failed_with<std::runtime_error>(*request));
  EXPECT_FALSE(failed_with<Abandoned>(*two[0]));
  EXPECT_TRUE(failed_with<Abandoned>(*one[0]));
  EXPECT_EQ(stats->failed, 3u);
}

TEST(FormedBatchFaultTest, EveryWayOutMayRace) {
  for (int round = 0; round < 50; ++round) {
    const auto stats = std::make_shared<ChannelStats>();
    TestHandler handler;
    Runtime runtime(with_workers(2));
    const auto channel = runtime.open(with_rows(4), handler, stats);
    std::atomic<std::uint64_t> made{0};
    run_threads(4, [&](int thread) {
      for (int i = 0; i < 40; ++i) {
        const std::vector<RequestPtr> requests{make_request(), make_request()};
        try {
          made += requests.size();
          channel->submit_batch(requests);
          channel->cancel(*requests[0]);
        } catch (const Closed&) {
          EXPECT_TRUE(requests[0]->done());
          EXPECT_TRUE(requests[1]->done());
        }
        if (thread == 0 && i == 20) round % 2 == 0 ? runtime.close() : channel->close(round % 4 == 1);
      }
    });
    EXPECT_TRUE(channel->wait_drained(kNever));
    EXPECT_EQ(stats->accepted, made.load());
    EXPECT_EQ(stats->accepted, stats->resolved());
  }
}

}  // namespace
}  // namespace torchpool::testing
