#include "core/scheduler.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace torchpool {

ChannelState::ChannelState(ChannelOptions options, std::shared_ptr<BatchHandler> batch_handler,
                           std::shared_ptr<ChannelStats> channel_stats, std::shared_ptr<Scheduler> runtime_scheduler,
                           Clock& clock, int workers)
    : name(std::move(options.name)),
      lane(options.lane),
      max_running(options.max_running > 0 ? options.max_running : workers),
      max_rows(options.max_rows),
      handler(std::move(batch_handler)),
      stats(channel_stats != nullptr ? std::move(channel_stats) : std::make_shared<ChannelStats>()),
      queue(std::make_shared<AdmissionQueue>(options.limits, clock, stats)),
      scheduler(std::move(runtime_scheduler)) {}

// All members but `scheduler` are under its mutex.
class Scheduler::Suspended final : public EventListener, public std::enable_shared_from_this<Suspended> {
 public:
  Suspended(std::weak_ptr<Scheduler> owner, TaskRun waiting) : scheduler(std::move(owner)), run(std::move(waiting)) {}

  void on_event() noexcept override {
    const std::shared_ptr<Scheduler> owner = scheduler.lock();
    if (owner == nullptr) return;
    Wake wake;
    {
      MutexLock lock(owner->mutex_);
      fired = true;
      // Not there: its worker has not put it there yet and will see `fired`, or the runtime has closed.
      if (owner->suspended_.erase(shared_from_this()) == 0) return;
      owner->enter_rotation_locked(std::move(run));
      wake = owner->wake_locked();
    }
    wake.now();
  }

  const std::weak_ptr<Scheduler> scheduler;
  TaskRun run;
  bool fired = false;
};

void Scheduler::Wake::now() const {
  for (WorkerSlot* worker : workers) {
    if (worker != nullptr) worker->parker.unpark();
  }
}

void Scheduler::add_workers(Lane lane, int workers) {
  MutexLock lock(mutex_);
  for (int i = 0; i < workers; ++i) lane_locked(lane).workers.push_back(std::make_unique<WorkerSlot>(i, lane));
}

void Scheduler::remove_workers(Lane lane) {
  MutexLock lock(mutex_);
  lane_locked(lane).workers.clear();
}

WorkerSlot& Scheduler::worker(Lane lane, int index) {
  MutexLock lock(mutex_);
  return *lane_locked(lane).workers[static_cast<std::size_t>(index)];
}

void Scheduler::add_channel(const ChannelStatePtr& channel) {
  MutexLock lock(mutex_);
  if (stopping()) throw Closed("the runtime is closed");
  std::erase_if(channels_, [](const std::weak_ptr<ChannelState>& known) { return known.expired(); });
  channels_.push_back(channel);
}

void Scheduler::post(TaskRun run) {
  Wake wake;
  {
    MutexLock lock(mutex_);
    if (stopping()) throw Closed("the runtime is closed");
    enter_rotation_locked(std::move(run));
    wake = wake_locked();
  }
  wake.now();
}

// A channel in the rotation will be looked at by a worker that comes after this push, so no lock is needed.
// Whoever takes it out looks at its queue afterwards; all four accesses are sequentially consistent, so one
// of the two sides sees the other.
void Scheduler::notify(const ChannelStatePtr& channel) {
  if (channel->in_rotation.load()) return;
  Wake wake;
  {
    MutexLock lock(mutex_);
    enter_rotation_locked(channel);
    wake = wake_locked();
  }
  wake.now();
}

void Scheduler::notify_drained(ChannelState& channel) {
  MutexLock lock(mutex_);
  if (channel.running.load() == 0 && channel.queue->waiting() == 0) channel.drained.notify_all();
}

bool Scheduler::wait_drained(ChannelState& channel, TimePoint until) {
  MutexLock lock(mutex_);
  while (channel.running.load() > 0 || channel.queue->waiting() > 0) {
    if (until != kNever && clock_.now() >= until) return false;
    clock_.wait_until(channel.drained, mutex_, until);
  }
  return true;
}

bool Scheduler::try_inline(ChannelState& channel) {
  MutexLock lock(mutex_);
  if (inline_call_ || idle_cores_ != cores_ || stopping() || !channel.open.load(std::memory_order_relaxed))
    return false;
  for (const LaneState& lane : lanes_) {
    if (lane.busy > 0 || !lane.rotation.empty()) return false;
  }
  if (channel.queue->waiting() > 0) return false;
  const int running = channel.running.load(std::memory_order_relaxed);
  if (running >= channel.max_running) return false;
  inline_call_ = true;
  idle_cores_ = 0;
  channel.running.store(running + 1, std::memory_order_relaxed);
  return true;
}

void Scheduler::end_inline(const ChannelStatePtr& channel) {
  Wake wake;
  {
    MutexLock lock(mutex_);
    inline_call_ = false;
    idle_cores_ = cores_;
    leave_channel_locked(channel);
    wake = wake_locked();
  }
  wake.now();
}

bool Scheduler::expect_work(WorkerSlot& worker) {
  MutexLock lock(mutex_);
  if (stopping()) return false;
  LaneState& lane = lane_locked(worker.lane);
  if (runnable_locked(lane)) return true;
  if (std::exchange(worker.woken, false)) lane.waking = false;
  lane.parked.push_back(&worker);
  return false;
}

bool Scheduler::pick(WorkerSlot& worker, Assignment& assignment) {
  MutexLock lock(mutex_);
  LaneState& lane = lane_locked(worker.lane);
  if (stopping() || !runnable_locked(lane)) return false;
  Ready ready = std::move(lane.rotation.front());
  lane.rotation.pop_front();
  if (ready.channel != nullptr) {
    ChannelState& channel = *ready.channel;
    channel.in_rotation.store(false);
    assignment.limits.max_rows = channel.max_rows.load(std::memory_order_relaxed);
    assignment.limits.share_rows = share_locked(lane, channel);
    channel.running.store(channel.running.load() + 1);
    assignment.run.channel = std::move(ready.channel);
    assignment.run.lane = worker.lane;
  } else {
    assignment.run = std::move(ready.run);
  }
  assignment.leased = std::min(idle_cores_, 1);
  assignment.cores = 1;
  idle_cores_ -= assignment.leased;
  ++lane.busy;
  return true;
}

void Scheduler::started(WorkerSlot& worker, Assignment& assignment) {
  Wake wake;
  {
    MutexLock lock(mutex_);
    LaneState& lane = lane_locked(worker.lane);
    if (assignment.run.channel != nullptr) enter_rotation_locked(assignment.run.channel);
    if (std::exchange(worker.woken, false)) lane.waking = false;
    if (lanes_[0].rotation.empty() && lanes_[1].rotation.empty()) {
      assignment.leased += std::exchange(idle_cores_, 0);
      assignment.cores = std::max(1, assignment.leased);
    }
    wake = wake_locked();
  }
  wake.now();
}

void Scheduler::finished(WorkerSlot& worker, Assignment& assignment) {
  Wake wake;
  {
    MutexLock lock(mutex_);
    if (assignment.run.channel != nullptr) leave_channel_locked(assignment.run.channel);
    wake = give_back_locked(worker, assignment);
  }
  assignment.run.channel.reset();
  wake.now();
}

bool Scheduler::again(WorkerSlot& worker, Assignment& assignment) {
  Wake wake;
  {
    MutexLock lock(mutex_);
    if (stopping()) return false;
    enter_rotation_locked(std::move(assignment.run));
    wake = give_back_locked(worker, assignment);
  }
  wake.now();
  return true;
}

bool Scheduler::suspend(WorkerSlot& worker, Assignment& assignment, Event& event) {
  const auto suspended = std::make_shared<Suspended>(weak_from_this(), std::move(assignment.run));
  const bool listens = event.listen(suspended);
  Wake wake;
  {
    MutexLock lock(mutex_);
    if (stopping()) {
      assignment.run = std::move(suspended->run);
      return false;
    }
    if (!listens || suspended->fired) {
      enter_rotation_locked(std::move(suspended->run));
    } else {
      suspended_.insert(suspended);
    }
    wake = give_back_locked(worker, assignment);
  }
  wake.now();
  return true;
}

void Scheduler::close() {
  std::vector<TaskRun> runs;
  std::vector<WorkerSlot*> parked;
  std::vector<ChannelStatePtr> channels;
  {
    MutexLock lock(mutex_);
    if (stopping_.exchange(true)) return;
    for (LaneState& lane : lanes_) {
      for (Ready& ready : lane.rotation) {
        if (ready.channel != nullptr) ready.channel->in_rotation.store(false);
        if (ready.channel == nullptr) runs.push_back(std::move(ready.run));
        channels.push_back(std::move(ready.channel));  // their last owner must not die under the lock
      }
      lane.rotation.clear();
      parked.insert(parked.end(), lane.parked.begin(), lane.parked.end());
      lane.parked.clear();
    }
    for (const std::shared_ptr<Suspended>& suspended : suspended_) runs.push_back(std::move(suspended->run));
    suspended_.clear();
    for (const std::weak_ptr<ChannelState>& known : channels_) channels.push_back(known.lock());
    channels_.clear();
  }
  for (WorkerSlot* worker : parked) worker->parker.unpark();
  const auto error = std::make_exception_ptr(Closed("the runtime was closed before the call started"));
  for (const ChannelStatePtr& channel : channels) {
    if (channel == nullptr) continue;
    channel->open.store(false);
    channel->queue->close();
    channel->queue->fail_waiting(error);
    notify_drained(*channel);
  }
  destroy_runs(std::move(runs));
}

void Scheduler::destroy_runs(std::vector<TaskRun> runs) {
  for (TaskRun& run : runs) {
    run.task.reset();
    if (run.channel == nullptr) continue;
    MutexLock lock(mutex_);
    leave_channel_locked(run.channel);
  }
}

bool Scheduler::runnable_locked(const LaneState& lane) const {
  return !inline_call_ && !lane.rotation.empty() && (idle_cores_ > 0 || lane.busy == 0);
}

// The workers of the lane that could run a batch of this channel now, this one included, get equal parts of
// what waits. 0 (no limit) when there is but one: smaller batches would only cost.
std::int64_t Scheduler::share_locked(const LaneState& lane, const ChannelState& channel) const {
  const auto elsewhere = static_cast<int>(lane.rotation.size());  // items that other free workers will take
  const int free = static_cast<int>(lane.workers.size()) - lane.busy;
  const int able = std::min({std::min(free, idle_cores_) - elsewhere, channel.max_running - channel.running.load()});
  if (able <= 1) return 0;
  return std::max<std::int64_t>(1, (channel.queue->waiting_rows() + able - 1) / able);
}

void Scheduler::enter_rotation_locked(const ChannelStatePtr& channel) {
  if (stopping() || channel->in_rotation.load() || channel->queue->waiting() == 0) return;
  if (channel->running.load() >= channel->max_running) return;  // the end of a batch puts it back
  channel->in_rotation.store(true);
  lane_locked(channel->lane).rotation.push_back({channel, {}});
}

void Scheduler::enter_rotation_locked(TaskRun run) {
  LaneState& lane = lane_locked(run.lane);
  lane.rotation.push_back({nullptr, std::move(run)});
}

void Scheduler::leave_channel_locked(const ChannelStatePtr& channel) {
  const int running = channel->running.load() - 1;
  channel->running.store(running);
  enter_rotation_locked(channel);
  if (running == 0 && channel->queue->waiting() == 0) channel->drained.notify_all();
}

Scheduler::Wake Scheduler::give_back_locked(WorkerSlot& worker, Assignment& assignment) {
  idle_cores_ += std::exchange(assignment.leased, 0);
  LaneState& lane = lane_locked(worker.lane);
  --lane.busy;
  // This worker looks for work itself now, so nobody of its lane needs to be woken before it has taken.
  if (std::exchange(worker.woken, false)) lane.waking = false;
  if (!lane.waking && runnable_locked(lane)) lane.waking = worker.woken = true;
  return wake_locked();
}

Scheduler::Wake Scheduler::wake_locked() {
  Wake wake;
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    LaneState& lane = lanes_[i];
    if (lane.waking || lane.parked.empty() || !runnable_locked(lane)) continue;
    wake.workers[i] = lane.parked.back();
    lane.parked.pop_back();
    wake.workers[i]->woken = lane.waking = true;
  }
  return wake;
}

}  // namespace torchpool
