#include "core/schedule/scheduler.h"

#include <algorithm>
#include <utility>

#include "core/sync/error.h"

namespace torchpool {

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

void Scheduler::set_cores(int cores, int cores_per_step) {
  Wake wake;
  {
    MutexLock lock(mutex_);
    cores_.store(cores, std::memory_order_relaxed);
    cores_per_step_ = cores_per_step;
    wake = wake_locked();
  }
  wake.now();
}

void Scheduler::add_channel(const ChannelStatePtr& channel) {
  MutexLock lock(mutex_);
  if (stopping()) throw Closed("the runtime is closed");
  std::erase_if(channels_, [](const std::weak_ptr<ChannelState>& known) { return known.expired(); });
  channels_.push_back(channel);
}

void Scheduler::post(TaskRun run) {
  run.share = std::make_shared<FairShare>();
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
  const TimePoint held_until = channel->held_until.load();
  if (held_until != TimePoint{} && channel->queue->hold_until(channel->take_limits()) >= held_until) return;
  release(channel);
}

void Scheduler::release(const ChannelStatePtr& channel) {
  Wake wake;
  {
    MutexLock lock(mutex_);
    release_locked(channel);
    wake = wake_locked();
  }
  wake.now();
}

void Scheduler::notify_drained(ChannelState& channel) {
  MutexLock lock(mutex_);
  notify_drained_locked(channel);
}

bool Scheduler::wait_drained(ChannelState& channel, TimePoint until) {
  MutexLock lock(mutex_);
  while (channel.running.load() > 0 || channel.queue->waiting() > 0) {
    if (until != kNever && clock_.now() >= until) return false;
    clock_.wait_until(channel.drained, mutex_, until);
  }
  return true;
}

bool Scheduler::try_inline(ChannelState& channel, InlineKind kind) {
  MutexLock lock(mutex_);
  if (inline_call_ || paused_ > 0 || leased_ > 0 || stopping() || !channel.open.load(std::memory_order_relaxed))
    return false;
  for (const LaneState& lane : lanes_) {
    if (lane.busy > 0 || !lane.rotation.empty()) return false;
  }
  if (channel.queue->waiting() > 0) return false;
  if (kind == InlineKind::kTiny) {
    if (channel.max_running > 0 && begun_locked(channel) >= channel.max_running) return false;
    ++channel.tiny;
  } else {
    if (begun_locked(channel) >= most_running_locked(channel)) return false;
    inline_call_ = true;
  }
  channel.running.store(channel.running.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  return true;
}

void Scheduler::end_inline(const ChannelStatePtr& channel, InlineKind kind) {
  Wake wake;
  {
    MutexLock lock(mutex_);
    if (kind == InlineKind::kTiny) --channel->tiny;
    if (kind == InlineKind::kAllCores) end_all_cores_locked();
    leave_channel_locked(channel);
    wake = wake_locked();
  }
  wake.now();
}

void Scheduler::end_all_cores() {
  Wake wake;
  {
    MutexLock lock(mutex_);
    end_all_cores_locked();
    wake = wake_locked();
  }
  wake.now();
}

void Scheduler::end_all_cores_locked() {
  inline_call_ = false;
  if (paused_ > 0) idle_.notify_all();
}

bool Scheduler::pick(WorkerSlot& worker, Assignment& assignment) {
  MutexLock lock(mutex_);
  LaneState& lane = lane_locked(worker.lane);
  if (stopping() || !runnable_locked(lane)) return false;
  Ready ready = lane.rotation.take(worker.warm.get(), takers_locked(lane));
  assignment.run = std::move(ready.run);
  if (ready.channel != nullptr) {
    ChannelState& channel = *ready.channel;
    channel.in_rotation.store(false);
    assignment.limits = channel.take_limits();
    assignment.limits.batch.share_rows = share_locked(lane, channel);
    assignment.limits.workers = most_running_locked(channel);
    channel.running.store(channel.running.load() + 1);
    assignment.run.share = ready.share;
    assignment.run.channel = std::move(ready.channel);
    assignment.run.lane = worker.lane;
  }
  worker.warm = ready.share;
  assignment.charged = ready.charged;
  assignment.share = std::move(ready.share);
  assignment.leased = std::min(idle_cores_locked(), cores_per_step_);
  assignment.cores = std::max(1, assignment.leased);
  leased_ += assignment.leased;
  ++lane.busy;
  return true;
}

void Scheduler::started(WorkerSlot& worker, Assignment& assignment, bool gains_by_cores) {
  Wake wake;
  {
    MutexLock lock(mutex_);
    LaneState& lane = lane_locked(worker.lane);
    if (assignment.run.channel != nullptr) enter_rotation_locked(assignment.run.channel);
    if (std::exchange(worker.woken, false)) lane.waking = false;
    if (gains_by_cores && lanes_[0].rotation.empty() && lanes_[1].rotation.empty()) {
      const int idle = idle_cores_locked();
      leased_ += idle;
      assignment.leased += idle;
      assignment.cores = std::max(1, assignment.leased);
    }
    wake = wake_locked();
  }
  assignment.step_began = clock_.now();
  wake.now();
}

void Scheduler::hold(WorkerSlot& worker, Assignment& assignment, TimePoint until) {
  Wake wake;
  {
    MutexLock lock(mutex_);
    const ChannelStatePtr& channel = assignment.run.channel;
    channel->running.store(channel->running.load() - 1);
    notify_drained_locked(*channel);  // what it was held for may be gone: cancelled, or failed
    // What came meanwhile, and put it back, may have ended the wait.
    if (!channel->in_rotation.load() && !stopping()) {
      channel->held_until.store(until);
      lane_locked(worker.lane).held.push_back({until, channel});
    }
    wake = give_back_locked(worker, assignment);
  }
  wake.now();
  // What came after the queue was looked at, or closed it, saw neither a hold nor a place in the rotation to be had.
  notify(assignment.run.channel);
  assignment.run.channel.reset();
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
      for (Ready& ready : lane.rotation.take_all()) {
        if (ready.channel != nullptr) ready.channel->in_rotation.store(false);
        if (ready.channel == nullptr) runs.push_back(std::move(ready.run));
        channels.push_back(std::move(ready.channel));  // their last owner must not die under the lock
      }
      for (Held& held : lane.held) {
        held.channel->held_until.store(TimePoint{});
        channels.push_back(std::move(held.channel));
      }
      lane.held.clear();
      lane.timekeeper = nullptr;
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
  return !inline_call_ && paused_ == 0 && !lane.rotation.empty() && (leased_ < cores() || lane.busy == 0);
}

int Scheduler::most_running_locked(const ChannelState& channel) const {
  return channel.max_running > 0 ? channel.max_running : lanes_[static_cast<std::size_t>(channel.lane)].wanted;
}

int Scheduler::begun_locked(const ChannelState& channel) const {
  return channel.running.load() - channel.tiny;
}

int Scheduler::takers_locked(const LaneState& lane) const {
  return std::min(lane.wanted - lane.busy, idle_cores_locked());
}

// The workers of the lane that could run a batch of this channel now, this one included, get equal parts of
// what waits. 0 (no limit) when there is but one: smaller batches would only cost.
std::int64_t Scheduler::share_locked(const LaneState& lane, const ChannelState& channel) const {
  const auto elsewhere = static_cast<int>(lane.rotation.size());  // items that other free workers will take
  const int able = std::min(takers_locked(lane) - elsewhere, most_running_locked(channel) - begun_locked(channel));
  if (able <= 1) return 0;
  return std::max<std::int64_t>(1, (channel.queue->waiting_rows() + able - 1) / able);
}

void Scheduler::enter_rotation_locked(const ChannelStatePtr& channel) {
  if (stopping() || channel->held_until.load() != TimePoint{} || channel->in_rotation.load() ||
      channel->queue->waiting() == 0)
    return;
  if (begun_locked(*channel) >= most_running_locked(*channel)) return;  // the end of a batch puts it back
  channel->in_rotation.store(true);
  lane_locked(channel->lane).rotation.push({channel, {}, channel->share});
}

void Scheduler::enter_rotation_locked(TaskRun run) {
  LaneState& lane = lane_locked(run.lane);
  FairSharePtr share = run.share;
  lane.rotation.push({nullptr, std::move(run), std::move(share)});
}

void Scheduler::release_locked(const ChannelStatePtr& channel) {
  if (channel->held_until.exchange(TimePoint{}) != TimePoint{}) {
    std::erase_if(lane_locked(channel->lane).held, [&](const Held& held) { return held.channel == channel; });
  }
  enter_rotation_locked(channel);
}

void Scheduler::release_due_locked(LaneState& lane) {
  if (lane.held.empty()) return;
  const TimePoint now = clock_.now();
  std::vector<ChannelStatePtr> due;
  for (const Held& held : lane.held) {
    if (held.until <= now) due.push_back(held.channel);
  }
  for (const ChannelStatePtr& channel : due) release_locked(channel);
}

void Scheduler::leave_channel_locked(const ChannelStatePtr& channel) {
  channel->running.store(channel->running.load() - 1);
  enter_rotation_locked(channel);
  notify_drained_locked(*channel);
}

void Scheduler::notify_drained_locked(ChannelState& channel) {
  if (channel.running.load() == 0 && channel.queue->waiting() == 0) channel.drained.notify_all();
}

Scheduler::Wake Scheduler::give_back_locked(WorkerSlot& worker, Assignment& assignment) {
  const int leased = std::exchange(assignment.leased, 0);
  leased_ -= leased;
  if (assignment.step_took > Duration::zero()) {
    Rotation::settle(*assignment.share, assignment.charged, assignment.step_took * std::max(1, leased));
  } else {
    Rotation::refund(*assignment.share, assignment.charged);
  }
  LaneState& lane = lane_locked(worker.lane);
  --lane.busy;
  if (paused_ > 0) idle_.notify_all();
  // This worker looks for work itself now, or keeps the time, so nobody of its lane needs to be woken before it has
  // taken.
  if (std::exchange(worker.woken, false)) lane.waking = false;
  if (!lane.waking && !worker.retired && needs_worker_locked(lane)) lane.waking = worker.woken = true;
  return wake_locked();
}

}  // namespace torchpool
