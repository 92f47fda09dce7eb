#include "core/sync/manual_clock.h"

#include <vector>

namespace torchpool {

TimePoint ManualClock::now() const noexcept {
  MutexLock lock(clock_mutex_);
  return now_;
}

// Lock order: the waiter's mutex, then the clock's. advance() therefore holds only one of them at a time and
// pins the waiters that it is about to notify; a pinned waiter drops its own mutex until it is let go.
void ManualClock::wait_until(CondVar& cv, Mutex& mutex, TimePoint until) {
  std::list<Waiter>::iterator self;
  const bool timed = until != kNever;
  {
    MutexLock lock(clock_mutex_);
    if (now_ >= until) return;
    self = waiters_.insert(waiters_.end(), Waiter{&cv, &mutex, until});
    if (timed) ++timed_;
    changed_.notify_all();
  }
  cv.wait(mutex);
  bool unlocked = false;
  clock_mutex_.lock();
  if (self->pins > 0) {
    clock_mutex_.unlock();
    mutex.unlock();
    unlocked = true;
    clock_mutex_.lock();
    while (self->pins > 0) changed_.wait(clock_mutex_);
  }
  waiters_.erase(self);
  if (timed) --timed_;
  clock_mutex_.unlock();
  if (unlocked) mutex.lock();
}

void ManualClock::advance(Duration by) {
  std::vector<Waiter*> due;
  {
    MutexLock lock(clock_mutex_);
    now_ += by;
    for (Waiter& waiter : waiters_) {
      if (waiter.until > now_) continue;
      ++waiter.pins;
      due.push_back(&waiter);
    }
  }
  for (Waiter* waiter : due) {
    waiter->mutex->lock();
    waiter->cv->notify_all();
    waiter->mutex->unlock();
  }
  MutexLock lock(clock_mutex_);
  for (Waiter* waiter : due) --waiter->pins;
  changed_.notify_all();
}

void ManualClock::await_timed_waiters(std::size_t count) {
  MutexLock lock(clock_mutex_);
  while (timed_ < count) changed_.wait(clock_mutex_);
}

void ManualClock::await_waiters(std::size_t count) {
  MutexLock lock(clock_mutex_);
  while (waiters_.size() < count) changed_.wait(clock_mutex_);
}

}  // namespace torchpool
