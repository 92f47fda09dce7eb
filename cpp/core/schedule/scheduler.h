// Who runs what next on which cores: the state that a runtime, its channels and its workers share.
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

// What a Channel, the rotation and running batches share, so that each may go first.
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
  const std::shared_ptr<BatchHandler> handler;  // without an owner (use_count 0) where the user keeps it
  const std::shared_ptr<ChannelStats> stats;
  const std::shared_ptr<AdmissionQueue> queue;
  const std::shared_ptr<Scheduler> scheduler;

  std::atomic<bool> open{true};
  std::atomic<bool> failing{false};  // closed, and what has not started is to fail
  // Written under the scheduler's mutex, read without.
  std::atomic<int> running{0};           // batches from their pick until their task is destroyed, and inline calls
  int posted = 0;                        // of these, tasks that have not begun; under the scheduler's mutex
  int tiny = 0;                          // of these, tiny inline calls; the same
  std::atomic<bool> in_rotation{false};  // sequentially consistent: see Scheduler::notify
  std::atomic<TimePoint> held_until{};   // its policy waits for more requests; zero: it does not. The same
  CondVar drained;                       // with the scheduler's mutex

  TakeLimits take_limits() const noexcept;
};

// A worker as the scheduler sees it. Below `lane` all is under the scheduler's mutex, but for the parker.
struct WorkerSlot {
  WorkerSlot(int worker_index, Lane worker_lane, Clock& clock)
      : index(worker_index), lane(worker_lane), parker(clock) {}
  const int index;
  const Lane lane;
  Parker parker;
  bool woken = false;      // it is the one of its lane that is on its way to work
  bool retired = false;    // its thread is to end
  TimePoint park_until{};  // set by expect_work()
  FairSharePtr warm;       // what it ran last
};

// What a worker got to do: a step of `run.task`, or a batch of `run.channel` where there is no task yet.
struct Assignment {
  TaskRun run;
  FairSharePtr share;
  Duration charged{};  // to its share, before the step
  TimePoint step_began{};
  Duration step_took{};  // zero: nothing ran
  TakeLimits limits;
  int cores = 0;   // to use
  int leased = 0;  // to give back
};

// Rules, per lane:
// - One rotation of channels with waiting work and of tasks that are ready to step, by deficit round robin.
// - A worker may take from it while a core is idle. A lane that runs nothing may take one item even so, on a core that
//   another lane uses: a batch that waits for the interpreter must not stop compute work, nor a busy compute lane
//   starve the interpreter's.
// - At most one worker is on its way to work; once it has taken, it wakes the next one if anything is left.
// - Workers are woken last parked first: that one's caches are warm.
// - A channel whose policy waits for more requests is held apart, and one parked worker sleeps only until it is due.
class Scheduler : public std::enable_shared_from_this<Scheduler> {
 public:
  Scheduler(int cores, Clock& clock) : clock_(clock), cores_(cores) {}

  // Cores to lease, and how many of them a step has at least, where they are idle.
  void set_cores(int cores, int cores_per_step) TP_EXCLUDES(mutex_);
  // How many workers a lane has: slots of new ones are made, those beyond are told to end.
  void set_workers(Lane lane, int workers) TP_EXCLUDES(mutex_);
  WorkerSlot& worker(Lane lane, int index) TP_EXCLUDES(mutex_);

  void add_channel(const ChannelStatePtr& channel) TP_EXCLUDES(mutex_);  // throws Closed
  void post(TaskRun run) TP_EXCLUDES(mutex_);                            // throws Closed
  // A task of a channel that did not come through its queue; counts as running from now on. Throws Closed.
  void post_to(const ChannelStatePtr& channel, std::unique_ptr<Task> task) TP_EXCLUDES(mutex_);
  // After a push: sees to it that the channel is served.
  void notify(const ChannelStatePtr& channel) TP_EXCLUDES(mutex_);
  // After waiting requests left in another way than by a batch.
  void notify_drained(ChannelState& channel) TP_EXCLUDES(mutex_);
  bool wait_drained(ChannelState& channel, TimePoint until) TP_EXCLUDES(mutex_);

  bool try_inline(ChannelState& channel, InlineKind kind) TP_EXCLUDES(mutex_);
  void end_inline(const ChannelStatePtr& channel, InlineKind kind) TP_EXCLUDES(mutex_);

  // The steps of a worker's round. True when there may be work (then pick()), false when it was marked as
  // parked (then park until `park_until` and ask again, after stop_parking() where that passed) - or when ends() says
  // so.
  bool expect_work(WorkerSlot& worker) TP_EXCLUDES(mutex_);
  void stop_parking(WorkerSlot& worker) TP_EXCLUDES(mutex_);
  bool ends(WorkerSlot& worker) TP_EXCLUDES(mutex_);
  bool stopping() const noexcept { return stopping_.load(std::memory_order_acquire); }
  bool pick(WorkerSlot& worker, Assignment& assignment) TP_EXCLUDES(mutex_);
  // After the batch was taken: puts the channel back, leases the remaining cores if nothing else waits, else
  // wakes the next worker.
  void started(WorkerSlot& worker, Assignment& assignment) TP_EXCLUDES(mutex_);
  // No batch was taken, since the channel's policy waits for more until then.
  void hold(WorkerSlot& worker, Assignment& assignment, TimePoint until) TP_EXCLUDES(mutex_);
  // The channel is no longer held: it closes.
  void release(const ChannelStatePtr& channel) TP_EXCLUDES(mutex_);
  // What the step that ends took; before one of these. Each gives the cores back. The task was destroyed:
  void finished(WorkerSlot& worker, Assignment& assignment) TP_EXCLUDES(mutex_);
  // It steps again behind the other work / once the event is set. False when the runtime closes: nothing was
  // done, and the task is to be destroyed.
  bool again(WorkerSlot& worker, Assignment& assignment) TP_EXCLUDES(mutex_);
  bool suspend(WorkerSlot& worker, Assignment& assignment, Event& event) TP_EXCLUDES(mutex_);

  // Refuses, fails what waits with Closed, destroys the tasks that are between two steps, and lets the
  // workers end.
  void close() TP_EXCLUDES(mutex_);
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
    std::vector<std::unique_ptr<WorkerSlot>> workers;  // retired ones stay, for when there are more again
    int wanted = 0;                                    // workers that are not retired
    std::vector<WorkerSlot*> parked;
    WorkerSlot* timekeeper = nullptr;  // the parked one that sleeps until the first held channel is due
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
  // For what may run, or to sleep until a held channel is due.
  bool needs_worker_locked(const LaneState& lane) const TP_REQUIRES(mutex_);
  int most_running_locked(const ChannelState& channel) const TP_REQUIRES(mutex_);
  // Batches of the channel that run, without those that wait for their turn as tasks.
  int begun_locked(const ChannelState& channel) const TP_REQUIRES(mutex_);
  // Workers of the lane that could take something now, one that looks among them.
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
  const std::shared_ptr<FairRounds> rounds_ = std::make_shared<FairRounds>();
  std::array<LaneState, 2> lanes_ TP_GUARDED_BY(mutex_){LaneState(rounds_), LaneState(rounds_)};
  std::unordered_set<std::shared_ptr<Suspended>> suspended_ TP_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<ChannelState>> channels_ TP_GUARDED_BY(mutex_);
};

}  // namespace torchpool
