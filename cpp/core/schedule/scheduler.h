// Which worker runs which item next, on which cores: the state that a runtime, its channels and its workers share.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <unordered_set>
#include <vector>

#include "core/schedule/channel.h"
#include "core/schedule/rotation.h"
#include "core/sync/event.h"
#include "core/sync/parker.h"

namespace torchpool {

class Scheduler;

// The state that a Channel, the rotation and running batches share, so that each may be destroyed first.
struct ChannelState {
  ChannelState(ChannelOptions options, std::shared_ptr<BatchHandler> batch_handler,
               std::shared_ptr<ChannelStats> channel_stats, std::shared_ptr<Scheduler> runtime_scheduler, Clock& clock);

  const std::string name;
  const Lane lane;
  const int max_running;  // 0: as many as there are workers
  std::atomic<std::int64_t> max_rows;
  std::atomic<std::int64_t> first_rows;
  const std::shared_ptr<CostModel> cost;
  const FairSharePtr share;
  const std::shared_ptr<BatchHandler> handler;  // owns nothing (use_count 0) where the user keeps the handler
  const std::shared_ptr<ChannelStats> stats;
  const std::shared_ptr<AdmissionQueue> queue;
  const std::shared_ptr<Scheduler> scheduler;

  std::atomic<bool> open{true};
  std::atomic<bool> failing{false};  // closed, and requests that have not started are to fail
  // Written under the scheduler's mutex, read without.
  std::atomic<int> running{0};           // batches from their pick until their task is destroyed, and inline calls
  int tiny = 0;                          // of `running`, tiny inline calls; under the scheduler's mutex
  std::atomic<bool> in_rotation{false};  // sequentially consistent: see Scheduler::notify
  std::atomic<TimePoint> held_until{};   // the policy waits for more requests; zero: no hold. Sequentially consistent
  CondVar drained;                       // with the scheduler's mutex

  TakeLimits take_limits() const noexcept;
};

// A worker as the scheduler sees it. The members below `parker` are under the scheduler's mutex.
struct WorkerSlot {
  WorkerSlot(int worker_index, Lane worker_lane, Clock& clock)
      : index(worker_index), lane(worker_lane), parker(clock) {}
  const int index;
  const Lane lane;
  Parker parker;
  bool woken = false;      // this worker is the one of its lane that is on its way to work
  bool retired = false;    // the thread is to end
  TimePoint park_until{};  // set by expect_work()
  FairSharePtr warm;       // the predictor that the worker ran last
};

// A worker's next work: a step of `run.task`, or a batch of `run.channel` where there is no task yet.
struct Assignment {
  TaskRun run;
  FairSharePtr share;
  Duration charged{};  // to `share`, before the step
  TimePoint step_began{};
  Duration step_took{};  // zero: nothing ran
  TakeLimits limits;
  int cores = 0;   // to use
  int leased = 0;  // to give back
};

// Rules, per lane:
// - Channels with waiting work and tasks that are ready to step take turns in one rotation, by deficit round robin.
// - A worker may take an item while a core is idle. A lane that runs nothing may take one item without an idle core, on
//   a core that another lane uses: a batch that waits for the interpreter must not stop compute work, nor may a busy
//   compute lane starve the interpreter lane.
// - At most one worker is on its way to work. Once that worker has taken an item, it wakes the next worker if more
//   items wait.
// - The worker that parked last is woken first: its caches are warm.
// - A channel whose policy waits for more requests is held outside of the rotation. One parked worker, the timekeeper,
//   sleeps only until the first held channel is due.
class Scheduler : public std::enable_shared_from_this<Scheduler> {
 public:
  Scheduler(int cores, Clock& clock) : clock_(clock), cores_(cores) {}

  // `cores` to lease, of which a step has at least `cores_per_step`, where cores are idle.
  void set_cores(int cores, int cores_per_step) TP_EXCLUDES(mutex_);
  // Sets how many workers a lane has. Slots for new workers are made; superfluous workers are told to end.
  void set_workers(Lane lane, int workers) TP_EXCLUDES(mutex_);
  WorkerSlot& worker(Lane lane, int index) TP_EXCLUDES(mutex_);

  void add_channel(const ChannelStatePtr& channel) TP_EXCLUDES(mutex_);  // throws Closed
  void post(TaskRun run) TP_EXCLUDES(mutex_);                            // throws Closed
  // After a push: sees to it that the channel is served.
  void notify(const ChannelStatePtr& channel) TP_EXCLUDES(mutex_);
  // After waiting requests left the queue without a batch.
  void notify_drained(ChannelState& channel) TP_EXCLUDES(mutex_);
  bool wait_drained(ChannelState& channel, TimePoint until) TP_EXCLUDES(mutex_);

  bool try_inline(ChannelState& channel, InlineKind kind) TP_EXCLUDES(mutex_);
  void end_inline(const ChannelStatePtr& channel, InlineKind kind) TP_EXCLUDES(mutex_);
  // The inline call that has all cores goes on without them.
  void end_all_cores() TP_EXCLUDES(mutex_);

  // The steps of a worker's round. expect_work(): true when there may be work (then pick()); false when the worker was
  // marked as parked (then park until `park_until`, call stop_parking() where that time passed, and ask again) or when
  // ends() is true.
  bool expect_work(WorkerSlot& worker) TP_EXCLUDES(mutex_);
  void stop_parking(WorkerSlot& worker) TP_EXCLUDES(mutex_);
  bool ends(WorkerSlot& worker) TP_EXCLUDES(mutex_);
  bool stopping() const noexcept { return stopping_.load(std::memory_order_acquire); }
  bool pick(WorkerSlot& worker, Assignment& assignment) TP_EXCLUDES(mutex_);
  // After the batch was taken: puts the channel back into the rotation. Leases the remaining cores if nothing else
  // waits and the step gains by them, else wakes the next worker.
  void started(WorkerSlot& worker, Assignment& assignment, bool gains_by_cores = true) TP_EXCLUDES(mutex_);
  // No batch was taken: the channel's policy waits for more requests until `until`.
  void hold(WorkerSlot& worker, Assignment& assignment, TimePoint until) TP_EXCLUDES(mutex_);
  // Ends a hold, because the channel closes.
  void release(const ChannelStatePtr& channel) TP_EXCLUDES(mutex_);
  // Each of these three ends a step, after step_took was set, and gives the cores back. The task was destroyed:
  void finished(WorkerSlot& worker, Assignment& assignment) TP_EXCLUDES(mutex_);
  // The task steps again, behind the other work / once the event is set. False when the runtime closes: nothing was
  // done, and the task is to be destroyed.
  bool again(WorkerSlot& worker, Assignment& assignment) TP_EXCLUDES(mutex_);
  bool suspend(WorkerSlot& worker, Assignment& assignment, Event& event) TP_EXCLUDES(mutex_);

  // Refuses new work, fails waiting requests with Closed, destroys tasks that are between two steps, and lets the
  // workers end.
  void close() TP_EXCLUDES(mutex_);

  // From now on no step begins and no caller gets an inline lease, until resume() was called as often.
  void pause() TP_EXCLUDES(mutex_);
  void resume() TP_EXCLUDES(mutex_);
  // Whether all steps that ran, and an inline call with all cores, have ended by `until`. Requires: paused.
  bool wait_paused(TimePoint until) TP_EXCLUDES(mutex_);
  Clock& clock() const noexcept { return clock_; }
  int cores() const noexcept { return cores_.load(std::memory_order_relaxed); }

 private:
  class Suspended;  // a task that waits for its event
  friend class Suspended;

  struct Held {
    TimePoint until;
    ChannelStatePtr channel;
  };
  struct LaneState {
    explicit LaneState(std::shared_ptr<FairRounds> rounds) : rotation(std::move(rounds)) {}
    std::vector<std::unique_ptr<WorkerSlot>> workers;  // retired slots stay, for a later increase
    int wanted = 0;                                    // workers that are not retired
    std::vector<WorkerSlot*> parked;
    WorkerSlot* timekeeper = nullptr;  // the parked worker that sleeps until the first held channel is due
    Rotation rotation;
    std::vector<Held> held;
    int busy = 0;         // workers between pick() and the end of the step
    bool waking = false;  // one worker is on its way to work
  };
  // Parkers to unpark once the mutex is free, at most one a lane.
  struct Wake {
    std::array<WorkerSlot*, 2> workers{};
    void now() const;
  };

  LaneState& lane_locked(Lane lane) TP_REQUIRES(mutex_) { return lanes_[static_cast<std::size_t>(lane)]; }
  int idle_cores_locked() const TP_REQUIRES(mutex_) { return std::max(0, cores() - leased_); }
  bool runnable_locked(const LaneState& lane) const TP_REQUIRES(mutex_);
  void end_all_cores_locked() TP_REQUIRES(mutex_);
  bool runs_locked() const TP_REQUIRES(mutex_);  // a step, or an inline call with all cores
  // Whether the lane needs a worker: to run an item, or to sleep until a held channel is due.
  bool needs_worker_locked(const LaneState& lane) const TP_REQUIRES(mutex_);
  int most_running_locked(const ChannelState& channel) const TP_REQUIRES(mutex_);
  // Batches of the channel and inline calls that hold cores; tiny ones do not.
  int begun_locked(const ChannelState& channel) const TP_REQUIRES(mutex_);
  // Workers of the lane that could take an item now, the asking worker included.
  int takers_locked(const LaneState& lane) const TP_REQUIRES(mutex_);
  void release_due_locked(LaneState& lane) TP_REQUIRES(mutex_);
  void release_locked(const ChannelStatePtr& channel) TP_REQUIRES(mutex_);
  void unpark_locked(LaneState& lane, WorkerSlot& worker) TP_REQUIRES(mutex_);
  std::int64_t share_locked(const LaneState& lane, const ChannelState& channel) const TP_REQUIRES(mutex_);
  void enter_rotation_locked(const ChannelStatePtr& channel) TP_REQUIRES(mutex_);
  void enter_rotation_locked(TaskRun run) TP_REQUIRES(mutex_);
  void leave_channel_locked(const ChannelStatePtr& channel) TP_REQUIRES(mutex_);
  void notify_drained_locked(ChannelState& channel) TP_REQUIRES(mutex_);
  Wake give_back_locked(WorkerSlot& worker, Assignment& assignment) TP_REQUIRES(mutex_);
  Wake wake_locked() TP_REQUIRES(mutex_);
  void destroy_runs(std::vector<TaskRun> runs) TP_EXCLUDES(mutex_);

  Clock& clock_;
  std::atomic<int> cores_;  // written under the mutex
  Mutex mutex_;
  std::atomic<bool> stopping_{false};  // written under the mutex
  int cores_per_step_ TP_GUARDED_BY(mutex_) = 1;
  int leased_ TP_GUARDED_BY(mutex_) = 0;
  bool inline_call_ TP_GUARDED_BY(mutex_) = false;  // a caller has all cores
  int paused_ TP_GUARDED_BY(mutex_) = 0;
  CondVar idle_;  // while paused
  const std::shared_ptr<FairRounds> rounds_ = std::make_shared<FairRounds>();
  std::array<LaneState, 2> lanes_ TP_GUARDED_BY(mutex_){LaneState(rounds_), LaneState(rounds_)};
  std::unordered_set<std::shared_ptr<Suspended>> suspended_ TP_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<ChannelState>> channels_ TP_GUARDED_BY(mutex_);
};

}  // namespace torchpool
