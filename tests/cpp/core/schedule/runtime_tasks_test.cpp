#include "core/schedule/runtime.h"
#include "core/sync/error.h"
#include "core/sync/event.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

void post(Runtime& runtime, FunctionTask::Function function, Lane lane = Lane::kCompute) {
  runtime.post(lane, make_task(std::move(function)));
}

TEST(TaskTest, StepsUntilItIsDone) {
  Runtime runtime(with_workers(2));
  Gate done;
  int steps = 0;
  post(runtime, [&, left = 5](WorkerContext& context) mutable {
    EXPECT_EQ(context.cores, 2);
    ++steps;
    if (--left > 0) return Step::again();
    done.enter();
    return Step::done();
  });
  done.await(1);
  done.release();
  runtime.close();
  EXPECT_EQ(steps, 5);
}

TEST(TaskTest, TasksAndBatchesOfALaneTakeTurns) {
  ManualClock clock;
  Runtime runtime(with_workers(1, &clock));
  const auto takes = std::chrono::milliseconds(1);
  Log<int> order;
  Gate gate;
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    order.add(id_of(batch.requests()[0]));
    clock.advance(takes);
    succeed_all(batch);
    return Step::done();
  });
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  post(runtime, [&](WorkerContext&) {
    gate.enter();
    return Step::done();
  });
  gate.await(1);
  Gate last;
  for (const int id : {10, 20}) {
    post(runtime, [&, id, step = 0](WorkerContext&) mutable {
      order.add(id + step);
      clock.advance(takes);
      if (++step < 3) return Step::again();
      last.enter();
      return Step::done();
    });
  }
  for (int i = 0; i < 3; ++i) channel->submit(make_request({}, i), Admission::kBlock, kNever);
  last.release();
  gate.release();
  last.await(2);
  channel->wait_drained(kNever);
  EXPECT_EQ(order.values(), (std::vector{10, 20, 0, 11, 21, 1, 12, 22, 2}));
}

TEST(TaskTest, APendingTaskHoldsNoWorkerAndComesBack) {
  Runtime runtime(with_workers(1));
  Event event;
  Gate waiting;
  Gate after;
  Gate other;
  int value = 0;
  post(runtime, [&, first = true](WorkerContext&) mutable {
    if (std::exchange(first, false)) {
      waiting.enter();
      return Step::pending_on(event);
    }
    EXPECT_EQ(value, 3);
    after.enter();
    return Step::done();
  });
  waiting.release();
  waiting.await(1);
  post(runtime, [&](WorkerContext&) {
    other.enter();
    return Step::done();
  });
  other.release();
  other.await(1);
  value = 3;
  event.set();
  after.await(1);
  after.release();
}

TEST(TaskTest, AnEventMayBeSetBeforeItIsWaitedFor) {
  Runtime runtime(with_workers(1));
  Event event;
  event.set();
  Gate done;
  post(runtime, [&, first = true](WorkerContext&) mutable {
    if (std::exchange(first, false)) return Step::pending_on(event);
    done.enter();
    return Step::done();
  });
  done.release();
  done.await(1);
  event.reset();
  EXPECT_TRUE(event.listen(nullptr));
}

// The event is the task's own member: the step that its set() leads to destroys it.
TEST(TaskTest, SetAndPendingRace) {
  Runtime runtime(with_workers(2));
  class Waiting : public Task {
   public:
    Waiting(std::atomic<Event*>& shown, std::atomic<int>& ended) : shown_(shown), ended_(ended) {}
    Step step(WorkerContext&) noexcept override {
      if (std::exchange(first_, false)) {
        shown_ = &event_;
        return Step::pending_on(event_);
      }
      ++ended_;
      return Step::done();
    }

   private:
    bool first_ = true;
    Event event_;
    std::atomic<Event*>& shown_;
    std::atomic<int>& ended_;
  };
  std::atomic<int> ended{0};
  for (int round = 1; round <= 1000; ++round) {
    std::atomic<Event*> shown{nullptr};
    runtime.post(Lane::kCompute, std::make_unique<Waiting>(shown, ended));
    while (shown == nullptr) std::this_thread::yield();
    shown.load()->set();
    while (ended < round) std::this_thread::yield();
  }
}

TEST(TaskTest, ABatchRunsUntilItsTaskIsDone) {
  Runtime runtime(with_workers(1));
  Event event;
  Gate stepped;
  TestHandler handler([&, first = true](const Batch& batch, WorkerContext&) mutable {
    if (std::exchange(first, false)) {
      stepped.enter();
      return Step::pending_on(event);
    }
    succeed_all(batch);
    return Step::done();
  });
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  const auto request = make_request();
  channel->submit(request, Admission::kBlock, kNever);
  stepped.release();
  stepped.await(1);
  EXPECT_EQ(channel->running(), 1);
  EXPECT_FALSE(channel->wait_drained(TimePoint{}));
  event.set();
  EXPECT_TRUE(channel->wait_drained(kNever));
  EXPECT_TRUE(request->done());
}

TEST(TaskTest, ClosingDropsTasksBetweenTwoSteps) {
  std::atomic<int> destroyed{0};
  const auto witness = [&] { return std::shared_ptr<void>(nullptr, [&](void*) { ++destroyed; }); };
  Event never;
  Gate pending;
  Gate running;
  TestHandler handler([&](const Batch&, WorkerContext&) {
    pending.enter();
    return Step::pending_on(never);
  });
  auto runtime = std::make_unique<Runtime>(with_workers(1));
  const auto channel = runtime->open(with_rows(1), handler, nullptr);
  const auto request = make_request();
  pending.release();
  channel->submit(request, Admission::kBlock, kNever);
  pending.await(1);
  post(*runtime, [&, held = witness()](WorkerContext&) {
    running.enter();
    return Step::again();
  });
  running.await(1);
  post(*runtime, [held = witness()](WorkerContext&) { return Step::done(); });
  std::thread closer([&] { runtime->close(); });
  wait(*request);  // the pending one is dropped while another still runs
  EXPECT_TRUE(failed_with<Abandoned>(*request));
  running.release();
  closer.join();
  EXPECT_EQ(destroyed, 2);
  EXPECT_EQ(channel->running(), 0);
  never.set();  // nobody waits any more
  EXPECT_THROW(post(*runtime, [](WorkerContext&) { return Step::done(); }), Closed);
}

}  // namespace
}  // namespace torchpool::testing
