// Polling for a moment before going to sleep: which thread may poll, and whether polling pays.
#pragma once

#include <algorithm>
#include <atomic>

#include "core/sync/clock.h"
#include "core/sync/parker.h"

namespace torchpool {

// Learns whether polling pays. Each poll that came to nothing doubles how many of the next ones are left out, up to a
// limit. Not thread-safe: a history belongs to one thread.
class SpinHistory {
 public:
  // Whether to poll this time.
  bool worth() noexcept {
    if (left_out_ > 0) --left_out_;
    return left_out_ == 0;
  }
  void record(bool paid) noexcept {
    penalty_ = paid ? 0 : std::min(penalty_ == 0 ? 2 : 2 * penalty_, kMost);
    left_out_ = penalty_;
  }

 private:
  static constexpr int kMost = 512;
  int penalty_ = 0;
  int left_out_ = 0;
};

// When to try something again whose failure is costly. Each failure doubles the pause, up to a limit. Not thread-safe:
// a backoff belongs to one thread.
class Backoff {
 public:
  bool due(TimePoint now) const noexcept { return now >= next_; }
  void record(bool paid, TimePoint now) noexcept {
    pause_ = paid ? kLeast : std::min(2 * pause_, kMost);
    next_ = now + pause_;
  }

 private:
  static constexpr Duration kLeast = std::chrono::milliseconds(10);
  static constexpr Duration kMost = std::chrono::seconds(10);
  Duration pause_ = kLeast;
  TimePoint next_{};
};

// The only seat for a polling thread: a second one would take a core from the work that both wait for.
class SpinSeat {
 public:
  bool try_take() noexcept { return !taken_.load(std::memory_order_relaxed) && !taken_.exchange(true); }
  void leave() noexcept { taken_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> taken_{false};
};

inline void cpu_relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Polls until `ready()` is true, or for about `limit`. Returns what ready() said last.
template <class Ready>
bool spin_until(Ready ready, Duration limit) {
  constexpr int kPollsPerLook = 32;
  const TimePoint until = Clock::steady().now() + limit;
  for (;;) {
    for (int i = 0; i < kPollsPerLook; ++i) {
      if (ready()) return true;
      cpu_relax();
    }
    if (Clock::steady().now() >= until) return ready();
  }
}

}  // namespace torchpool
