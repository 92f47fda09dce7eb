#include "core/parker.h"

namespace torchpool {

bool Parker::try_take() noexcept {
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

void Parker::unpark() {
  std::uint32_t seen = kEmpty;
  while (seen != kParked) {
    // Nothing of the parker may be touched after the permit is in: its owner may be gone.
    if (state_.compare_exchange_weak(seen, kPermit, std::memory_order_acq_rel)) return;
  }
  // Under the mutex, because a parked thread leaves only with it: it cannot leave, and end, before the
  // notification.
  MutexLock lock(mutex_);
  state_.store(kPermit, std::memory_order_release);
  cv_.notify_one();
}

}  // namespace torchpool
