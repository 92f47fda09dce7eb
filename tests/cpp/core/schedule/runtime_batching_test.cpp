#include "core/schedule/runtime.h"
#include "core/sync/error.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

struct Seen {
  std::vector<int> ids;
  int cores;
  bool operator==(const Seen&) const = default;
};

// Records each batch; a batch that holds a request with a negative id waits at the gate.
class RuntimeBatchingTest : public ::testing::Test {
 protected:
  std::shared_ptr<Channel> open(Runtime& runtime, std::int64_t max_rows, int max_running = 0) {
    return runtime.open(with_rows(max_rows, max_running), handler_, stats_);
  }
  std::shared_ptr<TestRequest> submit(Channel& channel, int id, const Spec& spec = {}) {
    auto request = make_request(spec, id);
    EXPECT_EQ(channel.submit(request, Admission::kBlock, kNever), PushResult::kAdmitted);
    return request;
  }
  // Occupies one worker and, alone, all cores.
  std::shared_ptr<TestRequest> block(Channel& channel) {
    const int before = gate_.entered();
    auto request = submit(channel, -1);
    gate_.await(before + 1);
    return request;
  }

  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  Gate gate_;
  Log<Seen> seen_;
  TestHandler handler_{[this](const Batch& batch, WorkerContext& context) {
    if (id_of(batch.requests()[0]) < 0) {
      gate_.enter();
    } else {
      seen_.add({ids_of(batch), context.cores});
    }
    succeed_all(batch);
    return Step::done();
  }};
};

TEST(RuntimeUsefulRowsTest, ManyAreOfUseOnlyWhereTheyShareBatches) {
  TestHandler handler([](const Batch& batch, WorkerContext& /*context*/) {
    succeed_all(batch);
    return Step::done();
  });
  Runtime runtime(with_workers(2));
  const auto alone = runtime.open(with_rows(1), handler, std::make_shared<ChannelStats>());
  const auto merging = runtime.open(with_rows(16), handler, std::make_shared<ChannelStats>());
  EXPECT_GT(merging->useful_rows(), 0);
  EXPECT_LT(merging->useful_rows(), 16);
  for (Channel* channel : {alone.get(), merging.get()}) {
    const auto request = make_request({}, 1);
    channel->submit(request, Admission::kBlock, kNever);
    wait(*request);
  }
  EXPECT_EQ(alone->useful_rows(), 0);
  EXPECT_EQ(merging->useful_rows(), 16 * 3);
}

TEST_F(RuntimeBatchingTest, ALoneCallGetsAllCores) {
  Runtime runtime(with_workers(4));
  const auto channel = open(runtime, 8);
  wait(*submit(*channel, 1));
  block(*channel);
  gate_.release();
  ASSERT_TRUE(channel->wait_drained(kNever));
  EXPECT_EQ(seen_.values(), (std::vector{Seen{{1}, 4}}));
}

TEST_F(RuntimeBatchingTest, ABatchGrowsWhileWorkersAreBusy) {
  Runtime runtime(with_workers(1));
  const auto channel = open(runtime, 8);
  block(*channel);
  for (int i = 0; i < 10; ++i) submit(*channel, i);
  EXPECT_EQ(channel->waiting_rows(), 10);
  gate_.release();
  ASSERT_TRUE(channel->wait_drained(kNever));
  EXPECT_EQ(seen_.values(), (std::vector{Seen{{0, 1, 2, 3, 4, 5, 6, 7}, 1}, Seen{{8, 9}, 1}}));
  EXPECT_EQ(stats_->batch_rows.snapshot().count, 3u);
  EXPECT_EQ(stats_->batch_ns.snapshot().count, 3u);
}

TEST_F(RuntimeBatchingTest, MaxRowsMayChangeWhileItRuns) {
  Runtime runtime(with_workers(1));
  const auto channel = open(runtime, 8);
  block(*channel);
  for (int i = 0; i < 4; ++i) submit(*channel, i);
  channel->set_rows(2, 2);
  gate_.release();
  ASSERT_TRUE(channel->wait_drained(kNever));
  EXPECT_EQ(seen_.values(), (std::vector{Seen{{0, 1}, 1}, Seen{{2, 3}, 1}}));
}

// The batch that frees the workers had all cores, so the burst meets three idle workers and three idle cores.
TEST_F(RuntimeBatchingTest, IdleWorkersShareABurst) {
  Runtime runtime(with_workers(3));
  Gate burst;
  Log<Seen> parts;
  TestHandler sharing([&](const Batch& batch, WorkerContext& context) {
    if (id_of(batch.requests()[0]) < 0) {
      gate_.enter();
    } else {
      parts.add({ids_of(batch), context.cores});
      burst.enter();
    }
    succeed_all(batch);
    return Step::done();
  });
  const auto channel = runtime.open(with_rows(64), sharing, stats_);
  block(*channel);
  for (int i = 0; i < 7; ++i) submit(*channel, i);
  gate_.release();
  burst.await(3);
  burst.release();
  ASSERT_TRUE(channel->wait_drained(kNever));
  std::size_t rows = 0;
  for (const Seen& part : parts.values()) {
    rows += part.ids.size();
    EXPECT_LE(part.ids.size(), 3u);
    EXPECT_EQ(part.cores, 1);
  }
  EXPECT_EQ(rows, 7u);
  EXPECT_EQ(parts.values().size(), 3u);
}

TEST_F(RuntimeBatchingTest, AChannelThatRunsOneBatchAtATimeDoesNotShare) {
  Runtime runtime(with_workers(3));
  const auto channel = open(runtime, 64, 1);
  block(*channel);
  for (int i = 0; i < 7; ++i) submit(*channel, i);
  EXPECT_EQ(channel->running(), 1);
  gate_.release();
  ASSERT_TRUE(channel->wait_drained(kNever));
  EXPECT_EQ(seen_.values(), (std::vector{Seen{{0, 1, 2, 3, 4, 5, 6}, 3}}));
}

TEST_F(RuntimeBatchingTest, OneAtATimeKeepsTheOrderOfArrival) {
  Runtime runtime(with_workers(4));
  const auto channel = open(runtime, 1, 1);
  block(*channel);
  std::vector<int> expected;
  for (int i = 0; i < 50; ++i) {
    submit(*channel, i);
    expected.push_back(i);
  }
  gate_.release();
  ASSERT_TRUE(channel->wait_drained(kNever));
  std::vector<int> order;
  for (const Seen& batch : seen_.values()) order.insert(order.end(), batch.ids.begin(), batch.ids.end());
  EXPECT_EQ(order, expected);
}

TEST_F(RuntimeBatchingTest, ChannelsTakeTurns) {
  ManualClock clock;
  Runtime runtime(with_workers(1, &clock));
  Log<int> order;
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    const int id = id_of(batch.requests()[0]);
    if (id < 0) {
      gate_.enter();
    } else {
      order.add(id);
    }
    clock.advance(std::chrono::milliseconds(1));
    succeed_all(batch);
    return Step::done();
  });
  const auto busy = runtime.open(with_rows(1), handler, nullptr);
  const auto other = runtime.open(with_rows(1), handler, nullptr);
  block(*busy);
  for (int i = 0; i < 3; ++i) submit(*busy, i);
  for (int i = 10; i < 12; ++i) submit(*other, i);
  gate_.release();
  busy->wait_drained(kNever);
  other->wait_drained(kNever);
  EXPECT_EQ(order.values(), (std::vector{10, 0, 11, 1, 2}));  // the busy one has just had its turn
}

TEST_F(RuntimeBatchingTest, AQueueOfOneAndOneWorkerTakeANestedPushThatLinesUp) {
  Runtime runtime(with_workers(1));
  std::shared_ptr<Channel> channel;
  std::shared_ptr<TestRequest> nested;
  TestHandler nesting([&](const Batch& batch, WorkerContext&) {
    EXPECT_TRUE(Runtime::on_worker_thread());
    if (id_of(batch.requests()[0]) == -1) {
      gate_.enter();
      nested = make_request({}, 1);
      channel->submit(nested, Admission::kLineUp, kNever);
    }
    succeed_all(batch);
    return Step::done();
  });
  ChannelOptions options = with_rows(1);
  options.limits.rows = 1;
  channel = runtime.open(options, nesting, stats_);
  const auto outer = block(*channel);
  const auto queued = submit(*channel, 0);  // fills the queue
  gate_.release();
  wait(*outer);
  wait(*queued);
  ASSERT_TRUE(channel->wait_drained(kNever));
  EXPECT_TRUE(nested->done());
  EXPECT_FALSE(Runtime::on_worker_thread());
}

TEST_F(RuntimeBatchingTest, CancelledBeforeItsStartNeverRuns) {
  Runtime runtime(with_workers(1));
  const auto channel = open(runtime, 8);
  const auto running = block(*channel);
  const auto request = submit(*channel, 5);
  EXPECT_TRUE(channel->cancel(*request));
  EXPECT_FALSE(channel->cancel(*request));
  EXPECT_FALSE(channel->cancel(*running));
  EXPECT_EQ(channel->waiting_rows(), 0);
  gate_.release();
  ASSERT_TRUE(channel->wait_drained(kNever));
  EXPECT_TRUE(seen_.values().empty());
  EXPECT_EQ(stats_->cancelled, 1u);
}

TEST_F(RuntimeBatchingTest, DrainedTimesOutWhileSomethingRuns) {
  ManualClock clock;
  Runtime runtime(with_workers(1, &clock));
  const auto channel = open(runtime, 8);
  block(*channel);
  EXPECT_FALSE(channel->wait_drained(clock.now()));
  gate_.release();
  EXPECT_TRUE(channel->wait_drained(kNever));
}

class FaultyHandler : public BatchHandler {
 public:
  std::unique_ptr<Task> make_task(Batch batch) override {
    if (id_of(batch.requests()[0]) == 0) throw std::runtime_error("no task for you");
    return nullptr;
  }
};

TEST(RuntimeFaultTest, AnExceptionOfMakeTaskReachesEachCaller) {
  Runtime runtime(with_workers(1));
  FaultyHandler handler;
  const auto stats = std::make_shared<ChannelStats>();
  const auto channel = runtime.open(with_rows(8), handler, stats);
  const auto request = make_request({}, 0);
  channel->submit(request, Admission::kBlock, kNever);
  wait(*request);
  EXPECT_TRUE(failed_with<std::runtime_error>(*request));
  EXPECT_FALSE(failed_with<Abandoned>(*request));
  EXPECT_TRUE(channel->wait_drained(kNever));
}

TEST(RuntimeFaultTest, ATaskThatForgetsItsRequestsAbandonsThem) {
  Runtime runtime(with_workers(2));
  TestHandler forgetful([](const Batch&, WorkerContext&) { return Step::done(); });
  FaultyHandler none;
  const auto stats = std::make_shared<ChannelStats>();
  for (BatchHandler* handler : {static_cast<BatchHandler*>(&forgetful), static_cast<BatchHandler*>(&none)}) {
    const auto channel = runtime.open(with_rows(8), *handler, stats);
    const auto request = make_request({}, 1);
    channel->submit(request, Admission::kBlock, kNever);
    wait(*request);
    EXPECT_TRUE(failed_with<Abandoned>(*request));
  }
  EXPECT_EQ(stats->failed, 2u);
}

TEST(RuntimeFaultTest, RequestsAreFreedWithTheirTask) {
  Runtime runtime(with_workers(1));
  TestHandler handler;
  const auto channel = runtime.open(with_rows(8), handler, nullptr);
  auto request = make_request();
  const std::weak_ptr<Request> watched = request;
  channel->submit(request, Admission::kBlock, kNever);
  wait(*request);
  request.reset();
  channel->wait_drained(kNever);
  EXPECT_TRUE(watched.expired());
}

}  // namespace
}  // namespace torchpool::testing
