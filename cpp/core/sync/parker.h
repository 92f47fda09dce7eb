// Puts one thread to sleep until another one wakes it.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/sync/clock.h"

namespace torchpool {

// Requires: one thread parks at a time; any thread may unpark.
// Guarantees: an unpark before a park is remembered (once) and costs no system call; what the unparking thread wrote
// before its unpark is visible after the park.
// Destruction: legal once every unpark has been received by a park (or has returned) and no thread parks.
class Parker {
 public:
  explicit Parker(Clock& clock = Clock::steady()) : clock_(clock), real_time_(&clock == &Clock::steady()) {}

  void park() { park_until(kNever); }
  // False when `until` passed without a permit.
  bool park_until(TimePoint until) TP_EXCLUDES(mutex_);
  void unpark() TP_EXCLUDES(mutex_);
  // Takes a permit that is there already, without waiting.
  bool try_take() noexcept;
  // Only indicative: the thread may be about to park or to be woken.
  bool parked() const noexcept { return state_.load(std::memory_order_relaxed) == kParked; }

 private:
  enum State : std::uint32_t { kEmpty, kPermit, kParked };

  bool sleep_until(TimePoint until) noexcept;
  bool wait_until(TimePoint until) TP_EXCLUDES(mutex_);

  Clock& clock_;
  // On the machine's own clock the thread sleeps on state_ itself. A condition variable, which a manual clock needs,
  // makes the woken thread queue for the mutex that the waking thread still holds: six system calls a hand-over instead
  // of four.
  const bool real_time_;
  std::atomic<std::uint32_t> state_{kEmpty};  // without real_time_ it enters and leaves kParked under mutex_
  Mutex mutex_;
  CondVar cv_;
};

}  // namespace torchpool
