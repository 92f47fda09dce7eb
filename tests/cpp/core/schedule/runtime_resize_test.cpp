#include <algorithm>
#include <array>
#include <random>
#include <stdexcept>

#include "core/schedule/runtime.h"
#include "core/sync/error.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

std::shared_ptr<TestRequest> submit(Channel& channel, int id = 0) {
  auto request = make_request({}, id);
  EXPECT_EQ(channel.submit(request, Admission::kBlock, kNever), PushResult::kAdmitted);
  return request;
}

// Negative ids wait at one gate, the others at another, where the cores that each has are noted.
class ResizeTest : public ::testing::Test {
 protected:
  TestHandler handler_{[this](const Batch& batch, WorkerContext& context) {
    if (id_of(batch.requests()[0]) < 0) {
      first_.enter();
    } else {
      cores_.add(context.cores);
      burst_.enter();
      ++ended_;
    }
    succeed_all(batch);
    return Step::done();
  }};
  // Many at once: what comes alone would get all cores.
  void burst(Channel& channel, int requests) {
    const int before = first_.entered();
    submit(channel, -1);
    first_.await(before + 1);
    for (int i = 0; i < requests; ++i) submit(channel, i);
    first_.release();
  }

  Log<int> cores_;
  std::atomic<int> ended_{0};
  Gate first_;
  Gate burst_;
};

TEST_F(ResizeTest, MoreWorkersAreUsed) {
  Runtime runtime(with_workers(1));
  const auto channel = runtime.open(with_rows(1), handler_, nullptr);
  runtime.resize(5, 1);
  EXPECT_EQ(runtime.workers(), 5);
  burst(*channel, 5);
  burst_.await(5);
  burst_.release();
  EXPECT_TRUE(channel->wait_drained(kNever));
  EXPECT_EQ(cores_.values(), (std::vector{1, 1, 1, 1, 1}));
}

TEST_F(ResizeTest, ABatchHasItsCoresAndALoneOneAll) {
  Runtime runtime(with_workers(1));
  const auto channel = runtime.open(with_rows(1), handler_, nullptr);
  runtime.resize(2, 3);
  EXPECT_EQ(runtime.cores_per_batch(), 3);
  burst(*channel, 2);
  burst_.await(2);
  burst_.release();
  EXPECT_TRUE(channel->wait_drained(kNever));
  wait(*submit(*channel));
  EXPECT_EQ(cores_.values(), (std::vector{3, 3, 6}));
}

// As many batches as there were workers run, so the channel had left the rotation.
TEST_F(ResizeTest, NewWorkersTakeWhatWaitsWhileABatchRuns) {
  Runtime runtime(with_workers(1));
  const auto channel = runtime.open(with_rows(1), handler_, nullptr);
  submit(*channel, -1);
  first_.await(1);
  submit(*channel, -2);
  runtime.resize(2, 1);
  first_.await(2);
  first_.release();
  EXPECT_TRUE(channel->wait_drained(kNever));
  wait(*submit(*channel, -3));
  burst_.release();
  wait(*submit(*channel, 1));
}

TEST_F(ResizeTest, ShrinkingWaitsForWhatRunsAndLeavesSoMany) {
  Runtime runtime(with_workers(4));
  const auto channel = runtime.open(with_rows(1), handler_, nullptr);
  burst(*channel, 4);
  burst_.await(4);
  std::thread resizing([&] {
    runtime.resize(1, 1);
    EXPECT_GE(ended_, 3);  // all but the batch of the worker that stays
  });
  burst_.release();
  resizing.join();
  EXPECT_EQ(runtime.workers(), 1);

  std::atomic<int> inside{0};
  std::atomic<int> most{0};
  TestHandler counting([&](const Batch& batch, WorkerContext& context) {
    EXPECT_EQ(context.worker, 0);
    most = std::max(most.load(), ++inside);
    std::this_thread::yield();
    --inside;
    succeed_all(batch);
    return Step::done();
  });
  const auto other = runtime.open(with_rows(1), counting, nullptr);
  for (int i = 0; i < 50; ++i) submit(*other, i);
  EXPECT_TRUE(other->wait_drained(kNever));
  EXPECT_EQ(most, 1);
}

TEST(ResizeEdgeTest, ABatchThatIsWaitedForMayStartTheOtherLane) {
  Gate first;  // a lone batch has all cores: the two that are to run together wait behind it
  Gate gate;
  Runtime runtime(with_workers(2));
  std::array<std::shared_ptr<Channel>, 2> opened;
  ChannelOptions other_lane = with_rows(1);
  other_lane.lane = Lane::kInterpreter;
  TestHandler unused([](const Batch&, WorkerContext&) { return Step::done(); });
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    const int id = id_of(batch.requests()[0]);
    if (id < 0) {
      first.enter();
    } else {
      gate.enter();
      opened[static_cast<std::size_t>(id)] = runtime.open(other_lane, unused, nullptr);
    }
    succeed_all(batch);
    return Step::done();
  });
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  submit(*channel, -1);
  first.await(1);
  const std::array requests{submit(*channel, 0), submit(*channel, 1)};
  first.release();
  gate.await(2);
  std::thread resizing([&] { runtime.resize(1, 1); });
  while (runtime.workers() != 1) std::this_thread::yield();
  gate.release();
  resizing.join();
  for (const auto& request : requests) wait(*request);
  EXPECT_NE(opened[0], nullptr);
  EXPECT_NE(opened[1], nullptr);
}

TEST(ResizeEdgeTest, IsRefused) {
  Runtime runtime(with_workers(2));
  EXPECT_THROW(runtime.resize(0, 1), std::invalid_argument);
  EXPECT_THROW(runtime.resize(1, 0), std::invalid_argument);
  std::atomic<bool> refused{false};
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    try {
      runtime.resize(3, 1);
    } catch (const std::logic_error&) {
      refused = true;
    }
    succeed_all(batch);
    return Step::done();
  });
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  wait(*submit(*channel));
  EXPECT_TRUE(refused);
  EXPECT_EQ(runtime.workers(), 2);
  runtime.close();
  EXPECT_THROW(runtime.resize(3, 1), Closed);
}

TEST(ResizeEdgeTest, ALaneThatStartsLaterHasAsMany) {
  Runtime runtime(with_workers(1));
  runtime.resize(3, 1);
  Gate gate;
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    gate.enter();
    succeed_all(batch);
    return Step::done();
  });
  // Tasks, unlike batches, are all there before the first of them has all cores.
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  {
    const InlineLease lease = runtime.try_inline(*channel);
    ASSERT_TRUE(lease);
    for (int i = 0; i < 3; ++i) submit(*channel, i);
  }
  gate.await(3);
  gate.release();
}

TEST(ResizeEdgeTest, EachNewWorkerStartsAndEachThatIsTooManyStops) {
  Log<int> started;
  Log<int> stopped;
  RuntimeOptions options = with_workers(1);
  options.compute.start = [&](int worker) { started.add(worker); };
  options.compute.stop = [&](int worker) { stopped.add(worker); };
  Runtime runtime(options);
  TestHandler handler;
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  runtime.resize(3, 1);
  auto seen = started.values();
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, (std::vector{0, 1, 2}));
  EXPECT_TRUE(stopped.values().empty());
  runtime.resize(1, 1);
  seen = stopped.values();
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, (std::vector{1, 2}));
  wait(*submit(*channel));
}

TEST(ResizeEdgeTest, WorkersThatCannotStartLeaveTheOthers) {
  RuntimeOptions options = with_workers(2);
  options.compute.start = [](int worker) {
    if (worker == 3) throw std::runtime_error("no memory for worker 3");
  };
  Runtime runtime(options);
  TestHandler handler;
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  EXPECT_THROW(runtime.resize(4, 1), std::runtime_error);
  EXPECT_EQ(runtime.workers(), 2);
  for (int i = 0; i < 20; ++i) wait(*submit(*channel, i));
  runtime.resize(3, 1);
  EXPECT_EQ(runtime.workers(), 3);
  wait(*submit(*channel));
}

TEST(ResizeEdgeTest, WhereOneLaneCannotGrowTheOtherDoesNotEither) {
  Log<int> stopped;
  RuntimeOptions options = with_workers(1);
  options.compute.stop = [&](int worker) { stopped.add(worker); };
  options.interpreter.start = [](int worker) {
    if (worker == 1) throw std::runtime_error("no memory for worker 1");
  };
  Runtime runtime(options);
  TestHandler handler;
  const auto compute = runtime.open(with_rows(1), handler, nullptr);
  ChannelOptions interpreted = with_rows(1);
  interpreted.lane = Lane::kInterpreter;
  const auto interpreter = runtime.open(interpreted, handler, nullptr);
  EXPECT_THROW(runtime.resize(2, 1), std::runtime_error);
  EXPECT_EQ(runtime.workers(), 1);
  EXPECT_EQ(stopped.values(), (std::vector{1}));
  wait(*submit(*compute));
  wait(*submit(*interpreter));
}

TEST(ResizeStressTest, UpAndDownUnderLoad) {
  Runtime runtime(with_workers(2));
  const auto stats = std::make_shared<ChannelStats>();
  TestHandler handler;
  const auto plain = runtime.open(with_rows(4), handler, stats);
  ChannelOptions options = with_rows(4);
  options.make_policy = [](const auto&) { return std::make_unique<HoldingPolicy>(3, std::chrono::microseconds(50)); };
  const auto held = runtime.open(options, handler, stats);
  std::atomic<bool> ends{false};
  run_threads(4, [&](int thread) {
    if (thread == 0) {
      std::mt19937 random(1);
      for (int i = 0; i < 100; ++i) {
        runtime.resize(1 + static_cast<int>(random() % 5), 1 + static_cast<int>(random() % 2));
      }
      ends = true;
      return;
    }
    Channel& channel = thread == 1 ? *held : *plain;
    while (!ends) {
      const auto a = submit(channel);
      const auto b = submit(channel);
      if (b->state() == RequestState::kQueued) channel.cancel(*b);
      wait(*a);
    }
  });
  EXPECT_TRUE(plain->wait_drained(kNever));
  EXPECT_TRUE(held->wait_drained(kNever));
  EXPECT_GT(stats->accepted, 0u);
  EXPECT_EQ(stats->accepted, stats->resolved());
}

TEST(ResizeStressTest, WhileWorkersAreParked) {
  Runtime runtime(with_workers(1));
  TestHandler handler;
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  for (int i = 0; i < 100; ++i) {
    runtime.resize(1 + i % 4, 1);
    if (i % 3 == 0) wait(*submit(*channel));
  }
}

// A single call beside a flood starts after the batch that runs, and no other.
TEST(RuntimeFairnessTest, AFloodDoesNotDelayOthersByMoreThanABatch) {
  ManualClock clock;
  Runtime runtime(with_workers(1, &clock));
  Gate gate;
  Log<int> order;
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    if (id_of(batch.requests()[0]) < 0) gate.enter();
    order.add(id_of(batch.requests()[0]));
    clock.advance(std::chrono::milliseconds(3));
    succeed_all(batch);
    return Step::done();
  });
  const auto flood = runtime.open(with_rows(4), handler, nullptr);
  const auto single = runtime.open(with_rows(4), handler, nullptr);
  for (int i = 0; i < 20; ++i) wait(*submit(*flood, 1));  // it owes time
  submit(*flood, -1);
  gate.await(1);
  for (int i = 0; i < 400; ++i) submit(*flood, 1);
  submit(*single, 2);
  gate.release();
  EXPECT_TRUE(single->wait_drained(kNever));
  EXPECT_TRUE(flood->wait_drained(kNever));
  const auto seen = order.values();
  const auto blocked = std::find(seen.begin(), seen.end(), -1);
  const auto found = std::find(seen.begin(), seen.end(), 2);
  ASSERT_NE(found, seen.end());
  EXPECT_EQ(found - blocked, 1);
  EXPECT_EQ(seen.size(), 20u + 1 + 100 + 1);
}

}  // namespace
}  // namespace torchpool::testing
