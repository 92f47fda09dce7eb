// Waiting for a future natively, and waking those who do.
#pragma once

#include "bindings/futures/future_object.h"
#include "core/sync/spin.h"

namespace torchpool {

inline bool is_done(const FutureFields& fields) noexcept {
  return fields.state == FutureState::kCancelled || fields.state == FutureState::kFinished;
}

// Takes all waiters off; the caller owes each of them a permit, by wake().
Waiter* detach(Waiter*& waiters) noexcept;
inline Waiter* detach_waiters(FutureFields& fields) noexcept {
  return detach(fields.waiters);
}
// With or without the interpreter's lock.
void wake(Waiter* waiters) noexcept;
// Wakes those that sleep, and returns the others, which poll. For a thread that is about to let go of the interpreter's
// lock: one that polls is to be told after that, or it queues for the lock; one that sleeps is to be told before, since
// it takes its time to get up, and would else come behind all who queue already: 5 ms each.
Waiter* wake_sleepers(Waiter* waiters) noexcept;

// Sleeps as one of these waiters, with the interpreter's lock released; true when it was woken. Polls first for up to
// `spin`, on the seat that the caller has taken for it.
struct Spin {
  SpinHistory* history = nullptr;
  Duration limit{};
};
bool sleep_in(Waiter*& waiters, TimePoint until, Spin spin);

enum class Waited : std::uint8_t { kDone, kTimedOut, kOrdinary, kError };
// Waits for a future with the interpreter's lock released. kOrdinary: the standard's own way of waiting is to be used;
// kError: an error is set (a signal handler's, or RecursionError). On a thread of the future's own executor a wait
// without a limit that would leave all of its threads waiting runs what they wait for instead.
Waited wait_natively(PyObject* future, TimePoint until);

}  // namespace torchpool
