// The methods of a native future.
#pragma once

#include "bindings/futures/future_object.h"

namespace torchpool {

extern PyMethodDef future_methods[];
PyObject* future_repr(PyObject* self);

// result(), and cancels a future that did not get done in time: how map() takes its results. METH_FASTCALL with the
// future and None or the end of its time in seconds of time.monotonic().
PyObject* take_result_or_cancel(PyObject* module, PyObject* const* args, Py_ssize_t count);

// What was added by add_done_callback(); taken when the future is done, before anything else can run. Null for none.
PyObject* detach_callbacks(FutureFields& fields) noexcept;
// Calls them in order, takes them over, and logs what they raise; false with an error set for what is no Exception, as
// the standard lets that pass.
bool call_back(PyObject* future, PyObject* callbacks);
// A future that waits for nothing any more is cancelled; false with an error set where a callback raised.
bool cancel_unqueued(PyObject* future);
// An unfinished future ends with this exception; false when it was done. Wakes its waiters; callbacks are called.
bool fail_future(PyObject* future, PyObject* exception);

}  // namespace torchpool
