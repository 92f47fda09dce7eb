#include "core/schedule/runtime.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

// Stands for the GIL: one holder at a time; leave() may be called by whoever does not hold it.
class Interpreter : public LaneGate {
 public:
  void enter() override {
    ++waiting_;
    waiting_.notify_all();
    gil_.lock();
    --waiting_;
    holder_ = std::this_thread::get_id();
  }
  void leave() noexcept override {
    if (!held_by_this_thread()) return;
    holder_ = std::thread::id();
    gil_.unlock();
  }
  bool held_by_this_thread() const { return holder_.load() == std::this_thread::get_id(); }
  void await_waiting() {
    for (int waiting = waiting_; waiting == 0; waiting = waiting_) waiting_.wait(waiting);
  }

 private:
  std::mutex gil_;
  std::atomic<std::thread::id> holder_;
  std::atomic<int> waiting_{0};
};

class LaneGateTest : public ::testing::Test {
 protected:
  RuntimeOptions options(int workers) {
    RuntimeOptions result = with_workers(workers);
    result.interpreter.gate = &gil_;
    return result;
  }
  static ChannelOptions interpreted(std::int64_t max_rows) {
    ChannelOptions result = with_rows(max_rows);
    result.lane = Lane::kInterpreter;
    return result;
  }
  Interpreter gil_;
};

TEST_F(LaneGateTest, TheBatchGrowsWhileItsWorkerWaitsForTheGate) {
  Runtime runtime(options(1));
  Log<std::size_t> sizes;
  TestHandler handler([&](const Batch& batch, WorkerContext& context) {
    EXPECT_TRUE(gil_.held_by_this_thread());
    EXPECT_EQ(context.gate, &gil_);
    sizes.add(batch.size());
    succeed_all(batch);
    return Step::done();
  });
  const auto channel = runtime.open(interpreted(64), handler, nullptr);
  gil_.enter();
  channel->submit(make_request(), Admission::kBlock, kNever);
  gil_.await_waiting();
  for (int i = 0; i < 9; ++i) channel->submit(make_request(), Admission::kBlock, kNever);
  gil_.leave();
  channel->wait_drained(kNever);
  EXPECT_EQ(sizes.values(), (std::vector<std::size_t>{10}));
}

TEST_F(LaneGateTest, ComputeWorkGoesOnWhileTheGateIsShut) {
  Runtime runtime(options(1));
  TestHandler handler;
  const auto python = runtime.open(interpreted(64), handler, nullptr);
  const auto compute = runtime.open(with_rows(64), handler, nullptr);
  gil_.enter();
  const auto stuck = make_request();
  python->submit(stuck, Admission::kBlock, kNever);
  gil_.await_waiting();
  for (int i = 0; i < 20; ++i) {
    const auto request = make_request();
    compute->submit(request, Admission::kBlock, kNever);
    wait(*request);
  }
  EXPECT_FALSE(stuck->done());
  gil_.leave();
  wait(*stuck);
}

// With one core: a lane may always run one item, so neither waits for the other to run out of work.
TEST_F(LaneGateTest, ABusyLaneDoesNotStarveTheOther) {
  Runtime runtime(options(1));
  Gate compute_gate;
  TestHandler blocking([&](const Batch& batch, WorkerContext&) {
    compute_gate.enter();
    succeed_all(batch);
    return Step::done();
  });
  TestHandler handler;
  const auto compute = runtime.open(with_rows(1), blocking, nullptr);
  const auto python = runtime.open(interpreted(1), handler, nullptr);
  compute->submit(make_request(), Admission::kBlock, kNever);
  compute_gate.await(1);
  const auto request = make_request();
  python->submit(request, Admission::kBlock, kNever);
  wait(*request);
  compute_gate.release();
}

TEST_F(LaneGateTest, ATaskMayLeaveTheGateAndIsDestroyedWithoutIt) {
  Runtime runtime(options(1));
  struct Leaving : Task {
    Leaving(Interpreter& interpreter, bool leaves, Log<bool>& held)
        : gil(interpreter), leave(leaves), held_at_end(held) {}
    ~Leaving() override { held_at_end.add(gil.held_by_this_thread()); }
    Step step(WorkerContext& context) noexcept override {
      if (leave) context.leave_gate();
      return Step::done();
    }
    Interpreter& gil;
    bool leave;
    Log<bool>& held_at_end;
  };
  Log<bool> held;
  Gate last;
  last.release();
  runtime.post(Lane::kInterpreter, std::make_unique<Leaving>(gil_, true, held));
  runtime.post(Lane::kInterpreter, std::make_unique<Leaving>(gil_, false, held));
  runtime.post(Lane::kInterpreter, make_task([&](WorkerContext&) {
                 last.enter();
                 return Step::done();
               }));
  last.await(1);
  EXPECT_EQ(held.values(), (std::vector{false, true}));
}

TEST_F(LaneGateTest, EachStepEntersAnew) {
  Runtime runtime(options(2));
  Gate last;
  last.release();
  std::atomic<int> held{0};
  runtime.post(Lane::kInterpreter, make_task([&, left = 5](WorkerContext& context) mutable {
                 if (gil_.held_by_this_thread()) ++held;
                 if (left % 2 == 0) context.leave_gate();
                 if (--left > 0) return Step::again();
                 last.enter();
                 return Step::done();
               }));
  last.await(1);
  EXPECT_EQ(held, 5);
}

TEST_F(LaneGateTest, ComputeTasksKnowNoGate) {
  Runtime runtime(options(1));
  Gate last;
  last.release();
  runtime.post(Lane::kCompute, make_task([&](WorkerContext& context) {
                 EXPECT_EQ(context.gate, nullptr);
                 EXPECT_EQ(context.lane, Lane::kCompute);
                 context.leave_gate();
                 last.enter();
                 return Step::done();
               }));
  last.await(1);
}

}  // namespace
}  // namespace torchpool::testing
