// A clock that a test moves by hand.
#pragma once

#include <cstddef>
#include <list>

#include "core/sync/clock.h"

namespace torchpool {

// Guarantees: advance() wakes every waiter whose time has come, however the wait and the advance interleave.
// Destruction: legal once no thread is inside any method.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(TimePoint start = TimePoint{} + std::chrono::hours{1}) : now_(start) {}

  TimePoint now() const noexcept override TP_EXCLUDES(clock_mutex_);
  void wait_until(CondVar& cv, Mutex& mutex, TimePoint until) override TP_REQUIRES(mutex) TP_NO_ANALYSIS;

  void advance(Duration by) TP_EXCLUDES(clock_mutex_) TP_NO_ANALYSIS;
  // Blocks until at least `count` threads wait on this clock with a limit.
  void await_timed_waiters(std::size_t count) TP_EXCLUDES(clock_mutex_);
  // As await_timed_waiters(), but threads that wait without a limit count too.
  void await_waiters(std::size_t count) TP_EXCLUDES(clock_mutex_);

 private:
  struct Waiter {
    CondVar* cv;
    Mutex* mutex;
    TimePoint until;
    int pins = 0;  // advances that are about to notify this waiter, which must not leave before
  };

  mutable Mutex clock_mutex_;
  CondVar changed_;
  TimePoint now_ TP_GUARDED_BY(clock_mutex_);
  std::list<Waiter> waiters_ TP_GUARDED_BY(clock_mutex_);
  std::size_t timed_ TP_GUARDED_BY(clock_mutex_) = 0;
};

}  // namespace torchpool
