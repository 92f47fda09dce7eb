// One-shot event between the thread that resolves a request and the one that waits for it.
#pragma once

#include <atomic>

#include "core/sync/parker.h"

namespace torchpool {

// Requires: resolve() is called at most once; at most one thread waits at a time, on a Parker that it owns.
// Guarantees: what happened before resolve() is visible once done() or wait_until() returned true.
// Destruction: legal once resolve() has returned or was never called; whoever resolves holds the owner alive.
class Completion {
 public:
  bool done() const noexcept;
  // Marks the completion done and wakes the waiter.
  void resolve() noexcept;
  // True once resolved, false when `until` passed first. The parker must outlive this call, no more.
  bool wait_until(Parker& parker, TimePoint until);

 private:
  // 0 pending, 1 done, else the address of the waiting Parker; see completion.cpp for why the waiter's
  // departure after a time-out must hand-shake with a resolver that has already read the address.
  std::atomic<std::uintptr_t> word_{0};
};

}  // namespace torchpool
