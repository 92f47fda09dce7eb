#include "core/sync/completion.h"

namespace torchpool {
namespace {

constexpr std::uintptr_t kPending = 0;
constexpr std::uintptr_t kDone = 1;

}  // namespace

bool Completion::done() const noexcept {
  return word_.load(std::memory_order_acquire) == kDone;
}

void Completion::resolve() noexcept {
  const std::uintptr_t seen = word_.exchange(kDone, std::memory_order_acq_rel);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the word holds an address or one of two small numbers
  if (seen > kDone) reinterpret_cast<Parker*>(seen)->unpark();
}

// A resolver that has read the parker's address will unpark it, at any later time. So once the address is
// published, the waiter leaves in two ways only: it takes the address back, or it has received that very
// permit. Only then may its thread end and the parker be gone. A permit left over from elsewhere is dropped
// first, to keep the two apart.
bool Completion::wait_until(Parker& parker, TimePoint until) {
  if (done()) return true;
  parker.try_take();
  const auto self = reinterpret_cast<std::uintptr_t>(&parker);
  std::uintptr_t expected = kPending;
  if (!word_.compare_exchange_strong(expected, self, std::memory_order_acq_rel)) return true;
  while (parker.park_until(until)) {
    if (done()) return true;
  }
  expected = self;
  if (word_.compare_exchange_strong(expected, kPending, std::memory_order_acq_rel)) return false;
  parker.park();
  return true;
}

}  // namespace torchpool
