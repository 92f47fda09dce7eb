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

// Who calls the callbacks of a future.
enum class CallBack : std::uint8_t {
  kHere,   // the calling thread; where that must not wait, as kLater
  kLater,  // the thread of callbacks: one that is slow, or waits for another future, keeps none from being settled
};
// An unfinished future ends with this result or exception; false when it was done. Wakes its waiters. What goes wrong
// is logged.
bool end_future(PyObject* future, PyObject* value, bool failed, CallBack who);
inline bool fail_future(PyObject* future, PyObject* exception) {
  return end_future(future, exception, true, CallBack::kHere);
}

}  // namespace torchpool
