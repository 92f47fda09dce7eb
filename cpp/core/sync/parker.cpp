#include "core/sync/parker.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace torchpool {

namespace {

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));

// Sleeps while the word has this value, until it is woken, the time passes, or for no reason at all.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t value, TimePoint until) noexcept {
  const auto since_boot = std::chrono::duration_cast<std::chrono::nanoseconds>(until.time_since_epoch()).count();
  const timespec limit{since_boot / 1'000'000'000, since_boot % 1'000'000'000};
  syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, value, until == kNever ? nullptr : &limit, nullptr,
          FUTEX_BITSET_MATCH_ANY);
}

// The word may be gone: the kernel looks for sleepers by its address, and reads nothing there.
void futex_wake(std::atomic<std::uint32_t>* word) noexcept {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

}  // namespace

bool Parker::try_take() noexcept {
  if (state_.load(std::memory_order_relaxed) != kPermit) return false;  // polled: leaves the line to its writer
  std::uint32_t expected = kPermit;
  return state_.compare_exchange_strong(expected, kEmpty, std::memory_order_acq_rel);
}

bool Parker::park_until(TimePoint until) {
  if (try_take()) return true;
  return real_time_ ? sleep_until(until) : wait_until(until);
}

bool Parker::sleep_until(TimePoint until) noexcept {
  std::uint32_t expected = kEmpty;
  if (!state_.compare_exchange_strong(expected, kParked, std::memory_order_acq_rel)) {
    state_.exchange(kEmpty, std::memory_order_acq_rel);  // a permit came in between
    return true;
  }
  for (;;) {
    futex_wait(state_, kParked, until);
    if (try_take()) return true;
    if (until == kNever || clock_.now() < until) continue;
    expected = kParked;
    if (state_.compare_exchange_strong(expected, kEmpty, std::memory_order_acq_rel)) return false;
    state_.exchange(kEmpty, std::memory_order_acq_rel);  // it came together with the end of the time
    return true;
  }
}

bool Parker::wait_until(TimePoint until) {
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

// Nothing of the parker may be touched once its owner can take the permit, which may then be gone. Without the mutex
// the permit is therefore the last write; with it, it goes only to a thread that is parked, which leaves only with
// the mutex. A thread that was parked and gave up in between gets its permit by another round.
void Parker::unpark() {
  if (real_time_) {
    std::atomic<std::uint32_t>* word = &state_;
    if (word->exchange(kPermit, std::memory_order_acq_rel) == kParked) futex_wake(word);
    return;
  }
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
