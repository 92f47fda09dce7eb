#include "bindings/future_wait.h"

#include <sched.h>

#include <algorithm>

#include "bindings/pool_worker.h"
#include "bindings/waiting.h"

namespace torchpool {

namespace {

// A hand-over between two cores takes less than 1 us; a task that takes longer than this is worth a sleep of 20 us.
constexpr auto kSpin = std::chrono::microseconds(20);

bool may_spin(const FutureFields& fields, SpinHistory& history) {
  Spinning& shared = spinning();
  if (!shared.allowed || fields.pool == nullptr) return false;
  // A worker on this very core cannot run while we poll.
  return fields.pool->last_cpu() != sched_getcpu() && history.worth() && shared.seat.try_take();
}

void unlink(FutureFields& fields, const Waiter& waiter) noexcept {
  Waiter** place = &fields.waiters;
  while (*place != &waiter) place = &(*place)->next;
  *place = waiter.next;
}

// True when it was woken.
bool sleep(FutureFields& fields, TimePoint until, bool first) {
  thread_local SpinHistory history;
  Parker& parker = own_parker();
  Waiter waiter{&parker, fields.waiters};
  fields.waiters = &waiter;
  const bool spins = first && may_spin(fields, history);
  bool woken = false;
  {
    const GilRelease release;
    spinning().releases.fetch_add(1, std::memory_order_release);
    if (spins) {
      woken = spin_until([&parker] { return parker.try_take(); }, kSpin);
      spinning().seat.leave();
      history.record(woken);
    }
    if (!woken) woken = parker.park_until(until);
  }
  if (!waiter.detached) {
    unlink(fields, waiter);
  } else if (!woken) {
    parker.park();  // whoever detached it gives the permit without asking for anything that we hold
    woken = true;
  }
  return woken;
}

}  // namespace

Waiter* detach_waiters(FutureFields& fields) noexcept {
  Waiter* waiters = std::exchange(fields.waiters, nullptr);
  for (Waiter* waiter = waiters; waiter != nullptr; waiter = waiter->next) waiter->detached = true;
  return waiters;
}

void wake(Waiter* waiters) noexcept {
  while (waiters != nullptr) {
    Waiter* next = waiters->next;  // gone once its thread has the permit
    waiters->parker->unpark();
    waiters = next;
  }
}

Waited wait_natively(PyObject* future, TimePoint until) {
  FutureFields& fields = *fields_of(future);
  const bool slices = handles_signals();
  for (bool first = true;; first = false) {
    if (fields.ordinary) return Waited::kOrdinary;
    if (is_done(fields)) return Waited::kDone;
    if (until != kNever && Clock::steady().now() >= until) return Waited::kTimedOut;
    const bool woken = sleep(fields, slices ? std::min(until, signal_slice()) : until, first);
    if (slices && !woken && PyErr_CheckSignals() != 0) return Waited::kError;
  }
}

}  // namespace torchpool
