// Who of a lane's workers sleeps, wakes and ends.
#include <algorithm>
#include <utility>

#include "core/schedule/scheduler.h"

namespace torchpool {

void Scheduler::Wake::now() const {
  for (WorkerSlot* worker : workers) {
    if (worker != nullptr) worker->parker.unpark();
  }
}

void Scheduler::set_workers(Lane which, int workers) {
  std::vector<WorkerSlot*> retired;
  std::vector<ChannelStatePtr> channels;  // their last owner must not die under the lock
  {
    MutexLock lock(mutex_);
    LaneState& lane = lane_locked(which);
    const auto wanted = static_cast<std::size_t>(workers);
    while (lane.workers.size() < wanted) {
      lane.workers.push_back(std::make_unique<WorkerSlot>(static_cast<int>(lane.workers.size()), which, clock_));
    }
    lane.wanted = workers;
    for (std::size_t i = 0; i < lane.workers.size(); ++i) {
      WorkerSlot& worker = *lane.workers[i];
      worker.retired = i >= wanted;
      const auto parked = std::find(lane.parked.begin(), lane.parked.end(), &worker);
      if (!worker.retired || parked == lane.parked.end()) continue;
      unpark_locked(lane, worker);
      retired.push_back(&worker);
    }
    // Those that ran as many batches as there were workers may run more now.
    for (const std::weak_ptr<ChannelState>& known : channels_) {
      channels.push_back(known.lock());
      if (channels.back() != nullptr) enter_rotation_locked(channels.back());
    }
  }
  for (WorkerSlot* worker : retired) worker->parker.unpark();
}

WorkerSlot& Scheduler::worker(Lane lane, int index) {
  MutexLock lock(mutex_);
  return *lane_locked(lane).workers[static_cast<std::size_t>(index)];
}

bool Scheduler::expect_work(WorkerSlot& worker) {
  MutexLock lock(mutex_);
  if (stopping() || worker.retired) return false;
  LaneState& lane = lane_locked(worker.lane);
  // A wake-up that was meant for a thread which ended in its place may have come before anybody chose it.
  unpark_locked(lane, worker);
  release_due_locked(lane);
  if (runnable_locked(lane)) return true;
  if (std::exchange(worker.woken, false)) lane.waking = false;
  worker.park_until = kNever;
  for (const Held& held : lane.held) worker.park_until = std::min(worker.park_until, held.until);
  if (lane.timekeeper != nullptr && lane.timekeeper->park_until <= worker.park_until) worker.park_until = kNever;
  if (worker.park_until != kNever) lane.timekeeper = &worker;
  lane.parked.push_back(&worker);
  return false;
}

void Scheduler::stop_parking(WorkerSlot& worker) {
  {
    MutexLock lock(mutex_);
    LaneState& lane = lane_locked(worker.lane);
    if (std::find(lane.parked.begin(), lane.parked.end(), &worker) != lane.parked.end()) {
      unpark_locked(lane, worker);
      return;
    }
  }
  worker.parker.park();  // somebody has just chosen it, and the permit is on its way
}

bool Scheduler::ends(WorkerSlot& worker) {
  Wake wake;
  {
    MutexLock lock(mutex_);
    if (stopping()) return true;
    if (!worker.retired) return false;
    if (std::exchange(worker.woken, false)) lane_locked(worker.lane).waking = false;
    worker.warm.reset();
    wake = wake_locked();
  }
  wake.now();
  return true;
}

void Scheduler::pause() {
  MutexLock lock(mutex_);
  ++paused_;
}

void Scheduler::resume() {
  Wake wake;
  {
    MutexLock lock(mutex_);
    if (--paused_ == 0) wake = wake_locked();
  }
  wake.now();
}

bool Scheduler::runs_locked() const {
  return inline_call_ || lanes_[0].busy > 0 || lanes_[1].busy > 0;
}

bool Scheduler::wait_paused(TimePoint until) {
  MutexLock lock(mutex_);
  while (runs_locked()) {
    if (clock_.now() >= until) return false;
    clock_.wait_until(idle_, mutex_, until);
  }
  return true;
}

bool Scheduler::needs_worker_locked(const LaneState& lane) const {
  return runnable_locked(lane) || (!lane.held.empty() && lane.timekeeper == nullptr);
}

void Scheduler::unpark_locked(LaneState& lane, WorkerSlot& worker) {
  std::erase(lane.parked, &worker);
  if (lane.timekeeper == &worker) lane.timekeeper = nullptr;
}

Scheduler::Wake Scheduler::wake_locked() {
  Wake wake;
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    LaneState& lane = lanes_[i];
    if (lane.waking || lane.parked.empty()) continue;
    if (!needs_worker_locked(lane)) continue;
    wake.workers[i] = lane.parked.back();
    unpark_locked(lane, *wake.workers[i]);
    wake.workers[i]->woken = lane.waking = true;
  }
  return wake;
}

}  // namespace torchpool
