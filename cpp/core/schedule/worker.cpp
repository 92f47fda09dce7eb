#include "core/schedule/worker.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "core/schedule/stats.h"

namespace torchpool {
namespace {

thread_local const Scheduler* current_scheduler = nullptr;

class Worker {
 public:
  Worker(Scheduler& scheduler, WorkerSlot& slot, const LaneHooks& hooks)
      : scheduler_(scheduler), slot_(slot), hooks_(hooks) {}

  void run() {
    for (;;) {
      if (!scheduler_.expect_work(slot_)) {
        if (scheduler_.ends(slot_)) return;
        if (!slot_.parker.park_until(slot_.park_until)) scheduler_.stop_parking(slot_);
        continue;
      }
      // Entered before anything is taken or leased: it may take long, and the batch grows meanwhile.
      if (hooks_.gate != nullptr) hooks_.gate->enter();
      Assignment assignment;
      if (scheduler_.pick(slot_, assignment)) work(assignment);
      leave_gate();
    }
  }

 private:
  void leave_gate() noexcept {
    if (hooks_.gate != nullptr) hooks_.gate->leave();
  }

  void work(Assignment& assignment) {
    TaskRun& run = assignment.run;
    BatchSize size;
    size.rows = 0;
    if (run.task == nullptr) {
      if (!make_task(assignment, size)) return;
    } else {
      scheduler_.started(slot_, assignment);
    }
    if (run.task == nullptr) {
      end(assignment);
      return;
    }
    if (run.started == TimePoint{}) run.started = assignment.step_began;
    WorkerContext context{slot_.index, slot_.lane, assignment.cores, hooks_.gate, true};
    const Step step = run.task->step(context);
    assignment.step_took = std::max(Duration(1), Duration(scheduler_.clock().now() - assignment.step_began));
    if (size.rows > 0 && context.typical) run.channel->cost->record(size, assignment.step_took, assignment.cores == 1);
    if (step.kind == Step::Kind::kDone) {
      end(assignment);
      return;
    }
    leave_gate();
    run.lane = step.lane.value_or(run.lane);
    const bool kept = step.kind == Step::Kind::kAgain ? scheduler_.again(slot_, assignment)
                                                      : scheduler_.suspend(slot_, assignment, *step.event);
    if (!kept) end(assignment);
  }

  // Leaves no task behind when nothing was waiting any more or no task could be made. False when the channel's policy
  // waits for more.
  bool make_task(Assignment& assignment, BatchSize& size) {
    TaskRun& run = assignment.run;
    Taken taken = run.channel->queue->take(assignment.limits);
    if (taken.batch.empty() && taken.hold_until > scheduler_.clock().now()) {
      leave_gate();
      scheduler_.hold(slot_, assignment, taken.hold_until);
      return false;
    }
    if (!taken.batch.empty()) size = taken.batch.cost_size();
    size.limit = taken.limit;
    scheduler_.started(slot_, assignment, size.rows > 0 && run.channel->cost->gains_by_cores(size.rows, size.length));
    if (taken.batch.empty()) return true;
    run.started = assignment.step_began;
    run.channel->stats->record_batch(size);
    BatchRescue rescue;
    try {
      run.task = run.channel->handler->make_task(std::move(taken.batch));
    } catch (...) {
      rescue.fail_all(std::current_exception());
    }
    return true;
  }

  // The task goes first, with the gate as it left it: what it owns may need the interpreter, and its
  // requests' memory must not outlive it. Only then does its batch stop counting as running.
  void end(Assignment& assignment) {
    TaskRun& run = assignment.run;
    const bool ran = run.task != nullptr;
    run.task.reset();
    leave_gate();
    if (ran && run.channel != nullptr) {
      const auto took = std::max(Duration::zero(), Duration(scheduler_.clock().now() - run.started));
      run.channel->stats->batch_ns.record(static_cast<std::uint64_t>(took.count()));
    }
    scheduler_.finished(slot_, assignment);
  }

  Scheduler& scheduler_;
  WorkerSlot& slot_;
  const LaneHooks& hooks_;
};

}  // namespace

void run_worker(Scheduler& scheduler, WorkerSlot& slot, const LaneHooks& hooks) {
  current_scheduler = &scheduler;
  Worker(scheduler, slot, hooks).run();
  current_scheduler = nullptr;
}

const Scheduler* scheduler_of_this_thread() noexcept {
  return current_scheduler;
}

}  // namespace torchpool
