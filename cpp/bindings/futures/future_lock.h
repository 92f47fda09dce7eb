// A native future's `_condition`, as far as wait() and as_completed() use it: a reentrant lock, and the list of their
// waiters. Whoever asks it for more makes the future an ordinary one, with a threading.Condition.
#pragma once

#include "bindings/futures/future_object.h"

namespace torchpool {

// Waits until no other thread holds the future's lock, as whoever changes its state must. False with an error set: a
// signal handler's.
bool wait_unlocked(PyObject* future);
// How often the calling thread holds it.
int lock_depth(const FutureFields& fields) noexcept;

// `_condition`, a new reference; the lock itself belongs to the future.
PyObject* new_lock(PyObject* future);
// `_waiters`, a borrowed reference; null with an error set.
PyObject* standard_waiters(PyObject* future);
// Tells them that the future is done, by the name of their method. Python code runs, with the lock held.
void tell_standard_waiters(PyObject* future, const char* method);

void register_future_lock();

}  // namespace torchpool
