#include "bindings/futures/future_methods.h"

#include <algorithm>
#include <optional>

#include "bindings/executor/pool_worker.h"
#include "bindings/futures/call_future.h"
#include "bindings/futures/future_lock.h"
#include "bindings/futures/future_standard.h"
#include "bindings/futures/future_wait.h"
#include "bindings/interpreter/bound_runtime.h"
#include "bindings/interpreter/waiting.h"

namespace torchpool {

namespace {

// The end of a wait of `timeout` seconds (None: never); false with an error set.
bool parse_timeout(PyObject* timeout, TimePoint& until) {
  until = kNever;
  if (timeout == nullptr || timeout == Py_None) return true;
  const double seconds = PyFloat_AsDouble(timeout);
  if (seconds == -1.0 && PyErr_Occurred() != nullptr) return false;
  until = after_seconds(seconds);
  return true;
}

// The only argument of result() and exception(); false with an error set.
bool only_timeout(const char* name, PyObject* const* args, Py_ssize_t count, PyObject* names, PyObject*& timeout) {
  timeout = nullptr;
  const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
  if (count + named > 1) {
    PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument (%zd given)", name, count + named);
    return false;
  }
  if (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "timeout") != 0) {
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", name, PyTuple_GET_ITEM(names, 0));
    return false;
  }
  if (count + named == 1) timeout = args[0];
  return true;
}

PyObject* outcome(const FutureFields& fields, bool as_exception) {
  if (fields.state == FutureState::kCancelled) {
    PyErr_SetNone(standard.cancelled_error);
    return nullptr;
  }
  if (as_exception) return Py_NewRef(fields.failed ? fields.value : Py_None);
  if (!fields.failed) return Py_NewRef(fields.value);
  set_raised(fields.value);
  return nullptr;
}

// What is left of the time, for the standard's method; a new reference.
PyObject* time_left(TimePoint until) {
  if (until == kNever) return Py_NewRef(Py_None);
  return PyFloat_FromDouble(std::max(to_seconds(until - Clock::steady().now()), 0.0));
}

PyObject* wait_and_take(PyObject* self, PyObject* timeout, bool as_exception) {
  const FutureFields& fields = *fields_of(self);
  settle_call_here(self);
  if (!fields.ordinary && is_done(fields)) return outcome(fields, as_exception);
  TimePoint until;
  if (!parse_timeout(timeout, until)) return nullptr;
  const auto kept = py::reinterpret_borrow<py::object>(self);
  std::optional<ParkedTask> parked;
  if (fields.call != nullptr) parked.emplace(useful_calls(self));
  BlockedTask blocked(self, until);
  if (blocked.failed()) return nullptr;
  switch (wait_natively(self, until)) {
    case Waited::kDone:
      return outcome(fields, as_exception);
    case Waited::kError:
      return nullptr;
    case Waited::kTimedOut:
      PyErr_SetNone(PyExc_TimeoutError);
      return nullptr;
    case Waited::kOrdinary:
      break;
  }
  const auto left = py::reinterpret_steal<py::object>(time_left(until));
  return left ? call_standard(as_exception ? "exception" : "result", self, left.ptr()) : nullptr;
}

PyObject* result(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  PyObject* timeout = nullptr;
  return only_timeout("result", args, count, names, timeout) ? wait_and_take(self, timeout, false) : nullptr;
}

PyObject* exception(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  PyObject* timeout = nullptr;
  return only_timeout("exception", args, count, names, timeout) ? wait_and_take(self, timeout, true) : nullptr;
}

PyObject* done(PyObject* self, PyObject* /*unused*/) {
  if (fields_of(self)->ordinary) return call_standard("done", self);
  return PyBool_FromLong(is_done(*fields_of(self)) ? 1 : 0);
}

PyObject* running(PyObject* self, PyObject* /*unused*/) {
  if (call_runs(self)) Py_RETURN_TRUE;
  if (fields_of(self)->ordinary) return call_standard("running", self);
  return PyBool_FromLong(fields_of(self)->state == FutureState::kRunning ? 1 : 0);
}

PyObject* cancelled(PyObject* self, PyObject* /*unused*/) {
  if (fields_of(self)->ordinary) return call_standard("cancelled", self);
  return PyBool_FromLong(fields_of(self)->state == FutureState::kCancelled ? 1 : 0);
}

// A task or a call that waits leaves its queue at once.
PyObject* cancel(PyObject* self, PyObject* /*unused*/) {
  FutureFields& fields = *fields_of(self);
  const auto kept = py::reinterpret_borrow<py::object>(self);
  if (!wait_unlocked(self)) return nullptr;
  if (fields.ordinary && ordinary_state(self) != FutureState::kPending) return call_standard("cancel", self);
  if (!fields.ordinary && fields.state != FutureState::kPending) {
    return PyBool_FromLong(fields.state == FutureState::kCancelled ? 1 : 0);
  }
  if (fields.call != nullptr) return cancel_call(self);
  if (!fields.queued) return call_standard("cancel", self);  // made by someone else
  ++fields.pool->counts().cancelled;
  fields.pool->remove(fields);
  Py_DECREF(self);  // the queue's
  return cancel_unqueued(self) ? Py_NewRef(Py_True) : nullptr;
}

PyObject* add_done_callback(PyObject* self, PyObject* callback) {
  FutureFields& fields = *fields_of(self);
  FutureExtra* extra = &extra_of(fields);
  // Made first: the garbage collector may run, and with it whatever there is to finalize.
  const auto list = py::reinterpret_steal<py::object>(extra->callbacks == nullptr ? PyList_New(0) : nullptr);
  if (fields.ordinary) return call_standard("add_done_callback", self, callback);
  if (!is_done(fields)) {
    if (extra->callbacks == nullptr) extra->callbacks = list ? Py_NewRef(list.ptr()) : nullptr;
    if (extra->callbacks == nullptr || PyList_Append(extra->callbacks, callback) != 0) return nullptr;
    Py_RETURN_NONE;
  }
  PyObject* called = PyObject_CallOneArg(callback, self);
  if (called == nullptr) {
    if (PyErr_ExceptionMatches(PyExc_Exception) == 0) return nullptr;
    log_error("callback_failed", self);
  }
  Py_XDECREF(called);
  Py_RETURN_NONE;
}

// After a cancellation the first to ask is told so, as by the standard; everything else is the standard's own.
PyObject* set_running_or_notify_cancel(PyObject* self, PyObject* /*unused*/) {
  FutureFields& fields = *fields_of(self);
  if (!fields.ordinary && fields.state == FutureState::kCancelled && !std::exchange(fields.told, true)) {
    Py_RETURN_FALSE;
  }
  return call_standard("set_running_or_notify_cancel", self);
}

// For the standard's own methods, which work on an ordinary future.
PyObject* invoke_callbacks(PyObject* self, PyObject* /*unused*/) {
  if (!must_run_inline()) return call_standard("_invoke_callbacks", self);
  return guarded([self] {
    const py::list callbacks(py::handle(self).attr("_done_callbacks"));
    if (!callbacks.empty()) call_back_later(self, callbacks.ptr());
    return Py_NewRef(Py_None);
  });
}

// A copy is ordinary and shares the condition, and pickling fails on that, both as with the standard's.
PyObject* reduce_ex(PyObject* self, PyObject* /*protocol*/) {
  return guarded([self] {
    const py::object dict = py::handle(self).attr("__dict__");
    const py::object remake = py::module_::import("copyreg").attr("__newobj__");
    return py::make_tuple(remake, py::make_tuple(py::type::of(py::handle(self))), dict).release().ptr();
  });
}

template <class Function>
PyCFunction as_method(Function function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

PyMethodDef future_methods[] = {
    {"result", as_method(result), METH_FASTCALL | METH_KEYWORDS,
     "result($self, /, timeout=None)\n--\n\nAs concurrent.futures.Future.result."},
    {"exception", as_method(exception), METH_FASTCALL | METH_KEYWORDS,
     "exception($self, /, timeout=None)\n--\n\nAs concurrent.futures.Future.exception."},
    {"done", done, METH_NOARGS, "As concurrent.futures.Future.done."},
    {"running", running, METH_NOARGS, "As concurrent.futures.Future.running."},
    {"cancelled", cancelled, METH_NOARGS, "As concurrent.futures.Future.cancelled."},
    {"cancel", cancel, METH_NOARGS,
     "As concurrent.futures.Future.cancel; a waiting task or call leaves its queue at once."},
    {"add_done_callback", add_done_callback, METH_O, "As concurrent.futures.Future.add_done_callback."},
    {"set_running_or_notify_cancel", set_running_or_notify_cancel, METH_NOARGS,
     "As concurrent.futures.Future.set_running_or_notify_cancel."},
    {"_invoke_callbacks", invoke_callbacks, METH_NOARGS, nullptr},
    {"__reduce_ex__", reduce_ex, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyObject* future_repr(PyObject* self) {
  const FutureFields& fields = *fields_of(self);
  if (fields.ordinary) return call_standard("__repr__", self);
  const auto name =
      py::reinterpret_steal<py::object>(PyObject_GetAttrString(reinterpret_cast<PyObject*>(Py_TYPE(self)), "__name__"));
  if (!name) return nullptr;
  switch (fields.state) {
    case FutureState::kPending:
      return PyUnicode_FromFormat("<%U at %p state=pending>", name.ptr(), self);
    case FutureState::kRunning:
      return PyUnicode_FromFormat("<%U at %p state=running>", name.ptr(), self);
    case FutureState::kCancelled:
      return PyUnicode_FromFormat("<%U at %p state=cancelled>", name.ptr(), self);
    case FutureState::kFinished:
      break;
  }
  const auto kind = py::reinterpret_steal<py::object>(
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(Py_TYPE(fields.value)), "__name__"));
  if (!kind) return nullptr;
  return PyUnicode_FromFormat("<%U at %p state=finished %s %U>", name.ptr(), self,
                              fields.failed ? "raised" : "returned", kind.ptr());
}

PyObject* take_result_or_cancel(PyObject* /*module*/, PyObject* const* args, Py_ssize_t count) {
  if (count != 2) {
    PyErr_SetString(PyExc_TypeError, "take_result_or_cancel() takes a future and the end of its time");
    return nullptr;
  }
  PyObject* future = args[0];
  if (is_future(future) && args[1] == Py_None) {
    if (PyObject* value = wait_and_take(future, nullptr, false)) return value;  // done: there is nothing to cancel
  } else {
    py::object left = py::none();
    if (args[1] != Py_None) {
      const double until = PyFloat_AsDouble(args[1]);
      if (until == -1.0 && PyErr_Occurred() != nullptr) return nullptr;
      left = py::float_(until - to_seconds(Clock::steady().now().time_since_epoch()));
    }
    if (PyObject* value = PyObject_CallMethod(future, "result", "O", left.ptr())) return value;
  }
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyObject* cancelled = PyObject_CallMethod(future, "cancel", nullptr);
  if (cancelled == nullptr) PyErr_WriteUnraisable(future);
  Py_XDECREF(cancelled);
  PyErr_Restore(type, value, traceback);
  return nullptr;
}

namespace {

// As call_back().
bool call_back_by(PyObject* future, PyObject* callbacks, CallBack who) {
  if (callbacks == nullptr || (who == CallBack::kHere && !must_run_inline())) return call_back(future, callbacks);
  call_back_later(future, callbacks);
  Py_DECREF(callbacks);
  return true;
}

}  // namespace

// The standard's stays in its queue until a worker comes by, and only then tells those who wait by wait() or
// as_completed(), or never after shutdown(cancel_futures=True); here they are told at once.
bool cancel_unqueued(PyObject* future) {
  FutureFields& fields = *fields_of(future);
  fields.pool = nullptr;
  const Work work(fields);
  if (fields.ordinary) {
    const auto cancelled = py::reinterpret_steal<py::object>(call_standard("cancel", future));
    if (!cancelled) return false;
    const auto told = py::reinterpret_steal<py::object>(ordinary_state(future) == FutureState::kCancelled
                                                            ? call_standard("set_running_or_notify_cancel", future)
                                                            : Py_NewRef(Py_None));
    return static_cast<bool>(told);
  }
  fields.state = FutureState::kCancelled;
  wake(detach_waiters(fields));
  tell_standard_waiters(future, "add_cancelled");
  return call_back_by(future, detach_callbacks(fields), CallBack::kHere);
}

PyObject* detach_callbacks(FutureFields& fields) noexcept {
  return fields.extra == nullptr ? nullptr : std::exchange(fields.extra->callbacks, nullptr);
}

bool call_back(PyObject* future, PyObject* callbacks) {
  if (callbacks == nullptr) return true;
  const auto all = py::reinterpret_steal<py::object>(callbacks);
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(callbacks); ++i) {
    PyObject* called = PyObject_CallOneArg(PyList_GET_ITEM(callbacks, i), future);
    if (called == nullptr) {
      if (PyErr_ExceptionMatches(PyExc_Exception) == 0) return false;
      log_error("callback_failed", future);
    }
    Py_XDECREF(called);
  }
  return true;
}

bool end_future(PyObject* future, PyObject* value, bool failed, CallBack who) {
  FutureFields& fields = *fields_of(future);
  if (!wait_unlocked(future)) log_error("worker_failed", future);
  if (!fields.ordinary && is_done(fields)) return false;
  const Work work(fields);
  fields.pool = nullptr;
  if (fields.ordinary) {
    const FutureState state = ordinary_state(future);
    if (state == FutureState::kCancelled || state == FutureState::kFinished) return false;
    PyObject* set = call_standard(failed ? "set_exception" : "set_result", future, value);
    if (set == nullptr) PyErr_WriteUnraisable(future);
    Py_XDECREF(set);
    return set != nullptr;
  }
  fields.state = FutureState::kFinished;
  fields.failed = failed;
  fields.value = Py_NewRef(value);
  track_if_needed(future);
  wake(detach_waiters(fields));
  tell_standard_waiters(future, failed ? "add_exception" : "add_result");
  if (!call_back_by(future, detach_callbacks(fields), who)) PyErr_WriteUnraisable(future);
  return true;
}

}  // namespace torchpool
