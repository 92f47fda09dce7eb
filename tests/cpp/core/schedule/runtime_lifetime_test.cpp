#include <random>

#include "core/schedule/runtime.h"
#include "core/sync/error.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

TEST(RuntimeStartTest, AnUnusedLaneHasNoThreads) {
  std::atomic<int> compute{0};
  std::atomic<int> interpreter{0};
  RuntimeOptions options = with_workers(3);
  options.compute.start = [&](int) { ++compute; };
  options.interpreter.start = [&](int) { ++interpreter; };
  Runtime runtime(options);
  EXPECT_EQ(runtime.workers(), 3);
  EXPECT_EQ(compute, 0);
  TestHandler handler;
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  const auto second = runtime.open(with_rows(1), handler, nullptr);
  EXPECT_EQ(compute, 3);
  EXPECT_EQ(interpreter, 0);
}

TEST(RuntimeStartTest, AFailedStartThrowsAndMayBeTriedAgain) {
  std::atomic<bool> broken{true};
  std::atomic<int> stopped{0};
  RuntimeOptions options = with_workers(3);
  options.compute.start = [&](int worker) {
    if (worker == 1 && broken) throw std::runtime_error("no device");
  };
  options.compute.stop = [&](int) { ++stopped; };
  Runtime runtime(options);
  TestHandler handler;
  EXPECT_THROW(runtime.open(with_rows(1), handler, nullptr), std::runtime_error);
  EXPECT_EQ(stopped, 2);
  broken = false;
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  const auto request = make_request();
  channel->submit(request, Admission::kBlock, kNever);
  wait(*request);
  runtime.close();
  EXPECT_EQ(stopped, 5);
}

TEST(RuntimeStartTest, WorkersDefaultToTheMachinesCores) {
  EXPECT_GE(Runtime().workers(), 1);
}

TEST(RuntimeCloseTest, FailsWhatWaitsAndLetsWhatRunsFinish) {
  Gate gate;
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    gate.enter();
    succeed_all(batch);
    return Step::done();
  });
  Runtime runtime(with_workers(1));
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  const auto running = make_request();
  const auto waiting = make_request();
  channel->submit(running, Admission::kBlock, kNever);
  gate.await(1);
  channel->submit(waiting, Admission::kBlock, kNever);
  std::thread closer([&] { runtime.close(); });
  wait(*waiting);
  EXPECT_TRUE(failed_with<Closed>(*waiting));
  EXPECT_FALSE(running->done());
  gate.release();
  closer.join();
  EXPECT_EQ(running->state(), RequestState::kSucceeded);
  runtime.close();
  EXPECT_THROW(channel->submit(make_request(), Admission::kBlock, kNever), Closed);
  EXPECT_THROW(runtime.open(with_rows(1), handler, nullptr), Closed);
  EXPECT_THROW(runtime.post(Lane::kInterpreter, make_task([](WorkerContext&) { return Step::done(); })), Closed);
}

TEST(RuntimeCloseTest, AWorkerMayNotCloseIt) {
  Runtime runtime(with_workers(1));
  Gate tried;
  tried.release();
  runtime.post(Lane::kCompute, make_task([&](WorkerContext&) {
                 EXPECT_THROW(runtime.close(), std::logic_error);
                 tried.enter();
                 return Step::done();
               }));
  tried.await(1);
}

// The workers are waited for meanwhile.
TEST(RuntimeCloseTest, ABatchMayStartTheOtherLaneThatCloses) {
  Gate gate;
  Runtime runtime(with_workers(1));
  ChannelOptions other_lane = with_rows(1);
  other_lane.lane = Lane::kInterpreter;
  TestHandler unused([](const Batch&, WorkerContext&) { return Step::done(); });
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    gate.enter();
    EXPECT_THROW(runtime.open(other_lane, unused, nullptr), Closed);
    succeed_all(batch);
    return Step::done();
  });
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  const auto running = make_request();
  const auto waiting = make_request();
  channel->submit(running, Admission::kBlock, kNever);
  gate.await(1);
  channel->submit(waiting, Admission::kBlock, kNever);
  std::thread closer([&] { runtime.close(); });
  wait(*waiting);  // failed by the close
  gate.release();
  closer.join();
  EXPECT_EQ(running->state(), RequestState::kSucceeded);
}

TEST(ChannelLifetimeTest, AChannelMayOutliveItsRuntime) {
  TestHandler handler;
  auto runtime = std::make_unique<Runtime>(with_workers(1));
  const auto channel = runtime->open(with_rows(1), handler, nullptr);
  runtime.reset();
  EXPECT_THROW(channel->submit(make_request(), Admission::kBlock, kNever), Closed);
  EXPECT_TRUE(channel->wait_drained(kNever));
  channel->close(true);
}

TEST(ChannelLifetimeTest, ClosingFailsOrDrains) {
  for (const bool fail : {true, false}) {
    Gate gate;
    TestHandler handler([&](const Batch& batch, WorkerContext&) {
      gate.enter();
      succeed_all(batch);
      return Step::done();
    });
    Runtime runtime(with_workers(1));
    const auto channel = runtime.open(with_rows(1), handler, nullptr);
    const auto running = make_request();
    const auto waiting = make_request();
    channel->submit(running, Admission::kBlock, kNever);
    gate.await(1);
    channel->submit(waiting, Admission::kBlock, kNever);
    channel->close(fail);
    channel->close(fail);
    EXPECT_EQ(failed_with<Closed>(*waiting), fail);
    EXPECT_THROW(channel->submit(make_request(), Admission::kBlock, kNever), Closed);
    gate.release();
    EXPECT_TRUE(channel->wait_drained(kNever));
    EXPECT_EQ(waiting->state(), fail ? RequestState::kFailed : RequestState::kSucceeded);
  }
}

TEST(ChannelLifetimeTest, ItsDestructorWaitsForWhatRuns) {
  Runtime runtime(with_workers(2));
  for (int round = 0; round < 200; ++round) {
    const auto request = make_request();
    {
      TestHandler handler;  // would be used after its end if the channel did not wait
      const auto channel = runtime.open(with_rows(1), handler, nullptr);
      channel->submit(request, Admission::kBlock, kNever);
    }
    EXPECT_TRUE(request->done());
  }
}

TEST(ChannelLifetimeTest, ItMayEndOnItsOwnWorker) {
  Runtime runtime(with_workers(1));
  std::shared_ptr<Channel> channel;
  Gate handed;
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    handed.enter();
    channel.reset();
    succeed_all(batch);
    return Step::done();
  });
  channel = runtime.open(with_rows(1), handler, nullptr);
  const auto request = make_request();
  const auto waiting = make_request();
  channel->submit(request, Admission::kBlock, kNever);
  handed.await(1);
  channel->submit(waiting, Admission::kBlock, kNever);
  handed.release();
  wait(*request);
  EXPECT_TRUE(failed_with<Closed>(*waiting));
  runtime.close();
}

// Every way out at once: success, abandonment, cancellation, deadlines, a full queue, and a close in the
// middle.
TEST(RuntimeStressTest, WhatIsAcceptedIsResolvedOnEveryWayOut) {
  for (int round = 0; round < 6; ++round) {
    const auto stats = std::make_shared<ChannelStats>();
    TestHandler handler([](const Batch& batch, WorkerContext&) {
      for (const RequestPtr& request : batch.requests()) {
        const int id = id_of(request);
        if (id % 7 == 1) request->fail(std::make_exception_ptr(std::runtime_error("marked")));
        if (id % 7 > 1) request->succeed();
      }
      return Step::done();
    });
    auto runtime = std::make_unique<Runtime>(with_workers(3));
    ChannelOptions options = with_rows(8);
    options.limits.rows = 32;
    const auto channel = runtime->open(options, handler, stats);
    std::atomic<int> refused{0};
    std::atomic<int> resolutions{0};
    std::atomic<std::uint64_t> accepted{0};
    std::thread closer;  // closes in the middle
    run_threads(6, [&](int thread) {
      std::mt19937 random(static_cast<unsigned>(thread + 10 * round));
      for (int i = 0; i < 1500; ++i) {
        Spec spec{.rows = 1 + static_cast<std::int64_t>(random() % 3),
                  .length = static_cast<std::int64_t>(random() % 30)};
        spec.key = random() % 3;
        if (random() % 5 == 0) spec.deadline = Clock::steady().now() + std::chrono::microseconds(random() % 300);
        auto request = std::make_shared<TestRequest>(make_info(spec), &resolutions);
        request->id = i;
        try {
          if (channel->submit(request, Admission::kBlock, kNever) != PushResult::kAdmitted) continue;
          ++accepted;
          runtime->watch_deadline(request);
          if (random() % 4 == 0) channel->cancel(*request);
          if (random() % 3 == 0) wait(*request);
        } catch (const Error&) {
          ++refused;
        }
        if (thread == 0 && i == 1000)
          closer = std::thread([&] { round % 2 == 0 ? runtime->close() : channel->close(true); });
      }
    });
    closer.join();
    runtime->close();
    EXPECT_GT(refused, 0);
    EXPECT_EQ(stats->accepted, accepted);
    EXPECT_EQ(stats->resolved(), accepted);
    EXPECT_EQ(static_cast<std::uint64_t>(resolutions), accepted);
    EXPECT_EQ(channel->waiting_rows(), 0);
    EXPECT_EQ(channel->running(), 0);
  }
}

TEST(RuntimeStressTest, ManyChannelsAndLanesFinishEverything) {
  Runtime runtime(with_workers(2));
  TestHandler handler;
  std::vector<std::shared_ptr<Channel>> channels;
  const auto stats = std::make_shared<ChannelStats>();
  for (int i = 0; i < 6; ++i) {
    ChannelOptions options = with_rows(1 + i % 3, i % 4);
    options.lane = i % 2 == 0 ? Lane::kCompute : Lane::kInterpreter;
    options.limits.rows = 4;
    channels.push_back(runtime.open(options, handler, stats));
  }
  run_threads(6, [&](int thread) {
    for (int i = 0; i < 1000; ++i) {
      const auto request = make_request();
      channels[static_cast<std::size_t>((thread + i) % 6)]->submit(request, Admission::kBlock, kNever);
      if (i % 5 == 0) wait(*request);
    }
  });
  for (const auto& channel : channels) EXPECT_TRUE(channel->wait_drained(kNever));
  EXPECT_EQ(stats->succeeded, 6000u);
}

}  // namespace
}  // namespace torchpool::testing
