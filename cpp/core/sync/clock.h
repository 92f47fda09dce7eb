// The one source of time. Everything that reads the time or waits with a limit takes a Clock, so that a test can move
// the time by hand.
#pragma once

#include <chrono>

#include "core/sync/mutex.h"

namespace torchpool {

using Duration = std::chrono::nanoseconds;
using TimePoint = std::chrono::steady_clock::time_point;
inline constexpr TimePoint kNever = TimePoint::max();

// Requires: less than 292 years.
constexpr Duration from_seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}
constexpr double to_seconds(Duration time) {
  return std::chrono::duration<double>(time).count();
}

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const noexcept = 0;
  // Waits until notified or until `until` on this clock (kNever: untimed). May return early; callers loop.
  virtual void wait_until(CondVar& cv, Mutex& mutex, TimePoint until) TP_REQUIRES(mutex) = 0;

  // The machine's monotonic clock; lives as long as the process.
  static Clock& steady();
};

}  // namespace torchpool
