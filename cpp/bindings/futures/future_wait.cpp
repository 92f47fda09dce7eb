#include "bindings/futures/future_wait.h"

#include <sched.h>

#include <algorithm>

#include "bindings/executor/pool_worker.h"
#include "bindings/interpreter/waiting.h"

namespace torchpool {

namespace {

// A hand-over between two cores takes less than 1 us; a task that takes longer than this is worth a sleep of 20 us.
constexpr auto kSpinForResult = std::chrono::microseconds(20);

bool may_spin(const FutureFields& fields, SpinHistory& history) {
  Spinning& shared = spinning();
  if (!shared.allowed || fields.pool == nullptr) return false;
  // A worker on this very core cannot run while we poll.
  if (fields.pool->last_cpu() == sched_getcpu() || !history.worth()) return false;
  return shared.take_seat(fields.pool->staff().waking);  // the worker may just have left it
}

void unlink(Waiter*& waiters, const Waiter& waiter) noexcept {
  Waiter** place = &waiters;
  while (*place != &waiter) place = &(*place)->next;
  *place = waiter.next;
}

}  // namespace

bool sleep_in(Waiter*& waiters, TimePoint until, Spin spin) {
  Parker& parker = own_parker();
  Waiter waiter{&parker, waiters};
  waiters = &waiter;
  bool woken = false;
  {
    const GilRelease release;
    spinning().releases.fetch_add(1, std::memory_order_release);
    if (spin.history != nullptr) {
      woken = spin_until([&parker] { return parker.try_take(); }, spin.limit);
      spinning().seat.leave();
      spin.history->record(woken);
    }
    if (!woken) woken = parker.park_until(until);
  }
  if (!waiter.detached) {
    unlink(waiters, waiter);
  } else if (!woken) {
    parker.park();  // whoever detached it gives the permit without asking for anything that we hold
    woken = true;
  }
  return woken;
}

Waiter* detach(Waiter*& waiters) noexcept {
  Waiter* all = std::exchange(waiters, nullptr);
  for (Waiter* waiter = all; waiter != nullptr; waiter = waiter->next) waiter->detached = true;
  return all;
}

void wake(Waiter* waiters) noexcept {
  while (waiters != nullptr) {
    Waiter* next = waiters->next;  // gone once its thread has the permit
    waiters->parker->unpark();
    waiters = next;
  }
}

Waiter* wake_sleepers(Waiter* waiters) noexcept {
  Waiter* others = nullptr;
  while (waiters != nullptr) {
    Waiter* waiter = std::exchange(waiters, waiters->next);
    if (waiter->parker->parked()) {
      waiter->parker->unpark();
    } else {
      waiter->next = std::exchange(others, waiter);
    }
  }
  return others;
}

Waited wait_natively(PyObject* future, TimePoint until) {
  FutureFields& fields = *fields_of(future);
  thread_local SpinHistory history;
  const bool slices = handles_signals();
  for (bool first = true;; first = false) {
    if (fields.ordinary) return Waited::kOrdinary;
    if (is_done(fields)) return Waited::kDone;
    if (until != kNever && Clock::steady().now() >= until) return Waited::kTimedOut;
    const Spin spin = first && may_spin(fields, history) ? Spin{&history, kSpinForResult} : Spin{};
    const bool woken = sleep_in(fields.waiters, slices ? std::min(until, signal_slice()) : until, spin);
    if (slices && !woken && PyErr_CheckSignals() != 0) return Waited::kError;
  }
}

}  // namespace torchpool
