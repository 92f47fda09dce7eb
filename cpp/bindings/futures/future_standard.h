// How a native future becomes an ordinary one: the standard library's own code works on it from then on.
#pragma once

#include "bindings/futures/future_object.h"

namespace torchpool {

// Fills the instance's dict with the standard's attributes; idempotent. What waits natively is woken and waits again by
// the standard's condition. False with an error set. Creating the condition may let other threads run.
bool make_ordinary(PyObject* future);

// The state of an ordinary future, which its dict holds and anyone may have changed.
FutureState ordinary_state(PyObject* future);
// Cancelled or finished, held natively or not. Requires that no error is set.
bool has_ended(PyObject* future);

// The descriptors of `_condition`, `_state`, `_result`, `_exception`, `_waiters`, `_done_callbacks` and `__dict__`.
// What wait() and as_completed() read is answered natively; a look at the last two, and a change of any, makes the
// future an ordinary one.
PyGetSetDef* future_attributes();

}  // namespace torchpool
