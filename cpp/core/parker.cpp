#include "core/parker.h"

namespace torchpool {

bool Parker::try_take() noexcept {
  if (state_.load(std::memory_order_relaxed) != kPermit) return false;  // polled: leaves the line to its writer
  std::uint32_t expected = kPermit;
  return state_.compare_exchange_strong(expected, kEmpty, std::memory_order_acq_rel);
}

bool Parker::park_until(TimePoint until) {
  if (try_take()) return true;
  MutexLock lock(mutex_);
  std::uint32_t expected = kEmpty;
  if (!state_.compare_exchange_strong(expected, kParked, std::memory_order_acq_rel)) {
    state_.exchange(kEmpty, std::memory_order_acq_rel);  // a permit came in between
    return true;
  }
  for (;;) {
    const bool late = until != kNever && clock_.now() >= until;
    if (!late) clock_.wait_until(cv_, mutex_, until);
    if (try_take()) return true;
    if (late) {
      // Nobody turns kParked into a permit but under the mutex, which is ours.
      state_.store(kEmpty, std::memory_order_release);
      return false;
    }
  }
}

// Nothing of the parker may be touched once its owner can take the permit, which may then be gone. Without
// the mutex the permit is therefore the last write; with it, it goes only to a thread that is parked, which
// leaves only with the mutex. A thread that was parked and gave up in between gets its permit by another
// round.
void Parker::unpark() {
  std::uint32_t seen = kEmpty;
  for (;;) {
    if (seen != kParked) {
      if (state_.compare_exchange_weak(seen, kPermit, std::memory_order_acq_rel)) return;
      continue;
    }
    MutexLock lock(mutex_);
    if (!state_.compare_exchange_strong(seen, kPermit, std::memory_order_acq_rel)) continue;
    cv_.notify_one();
    return;
  }
}

}  // namespace torchpool
