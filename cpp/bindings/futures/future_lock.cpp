#include "bindings/futures/future_lock.h"

#include <algorithm>

#include "bindings/futures/future_standard.h"
#include "bindings/futures/future_wait.h"
#include "bindings/interpreter/waiting.h"

namespace torchpool {

namespace {

struct LockObject {
  PyObject_HEAD PyObject* future;
};

PyTypeObject* lock_type = nullptr;

PyObject* future_of(PyObject* lock) {
  return reinterpret_cast<LockObject*>(lock)->future;
}

// Of an ordinary future: a new reference.
py::object real_condition(PyObject* lock) {
  return py::reinterpret_steal<py::object>(PyObject_GetAttrString(future_of(lock), "_condition"));
}

enum class Locked : std::uint8_t { kYes, kNo, kOrdinary, kError };

// Until the lock is free, the time is over, or the future is ordinary.
Locked wait_for_lock(PyObject* future, TimePoint until) {
  FutureFields& fields = *fields_of(future);
  const bool slices = handles_signals();
  while (!fields.ordinary) {
    FutureExtra& extra = extra_of(fields);
    if (extra.lock_owner == 0 || extra.lock_owner == PyThread_get_thread_ident()) return Locked::kYes;
    if (until != kNever && Clock::steady().now() >= until) return Locked::kNo;
    const bool woken = sleep_in(extra.lock_waiters, slices ? std::min(until, signal_slice()) : until, {});
    if (slices && !woken && PyErr_CheckSignals() != 0) return Locked::kError;
  }
  return Locked::kOrdinary;
}

PyObject* acquire(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* names[] = {"blocking", "timeout", nullptr};
  int blocking = 1;
  double timeout = -1;
  if (PyArg_ParseTupleAndKeywords(args, kwargs, "|pd", const_cast<char**>(names), &blocking, &timeout) == 0) {
    return nullptr;
  }
  TimePoint until = timeout < 0 ? kNever : after_seconds(timeout);
  if (blocking == 0) until = Clock::steady().now();
  switch (wait_for_lock(future_of(self), until)) {
    case Locked::kError:
      return nullptr;
    case Locked::kNo:
      Py_RETURN_FALSE;
    case Locked::kOrdinary: {
      const py::object condition = real_condition(self);
      return condition
                 ? PyObject_CallMethod(condition.ptr(), "acquire", "Od", blocking != 0 ? Py_True : Py_False, timeout)
                 : nullptr;
    }
    case Locked::kYes:
      break;
  }
  FutureExtra& extra = extra_of(*fields_of(future_of(self)));
  extra.lock_owner = PyThread_get_thread_ident();
  ++extra.lock_depth;
  Py_RETURN_TRUE;
}

PyObject* release(PyObject* self, PyObject* /*unused*/) {
  FutureFields& fields = *fields_of(future_of(self));
  if (fields.ordinary) {
    const py::object condition = real_condition(self);
    return condition ? PyObject_CallMethod(condition.ptr(), "release", nullptr) : nullptr;
  }
  if (lock_depth(fields) == 0) {
    PyErr_SetString(PyExc_RuntimeError, "cannot release un-acquired lock");
    return nullptr;
  }
  FutureExtra& extra = *fields.extra;
  if (--extra.lock_depth == 0) {
    extra.lock_owner = 0;
    wake(detach(extra.lock_waiters));
  }
  Py_RETURN_NONE;
}

PyObject* enter(PyObject* self, PyObject* /*unused*/) {
  const auto none = py::reinterpret_steal<py::object>(PyTuple_New(0));
  return none ? acquire(self, none.ptr(), nullptr) : nullptr;
}

PyObject* leave(PyObject* self, PyObject* /*args*/) {
  return release(self, nullptr);
}

// wait(), notify_all() and whatever else a condition has.
PyObject* get_attribute(PyObject* self, PyObject* name) {
  PyObject* own = PyObject_GenericGetAttr(self, name);
  if (own != nullptr || PyErr_ExceptionMatches(PyExc_AttributeError) == 0) return own;
  PyErr_Clear();
  if (!make_ordinary(future_of(self))) return nullptr;
  const py::object condition = real_condition(self);
  return condition ? PyObject_GetAttr(condition.ptr(), name) : nullptr;
}

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject* future = future_of(self);
  fields_of(future)->extra->lock_object = nullptr;
  PyObject_Free(self);
  Py_DECREF(future);
  Py_DECREF(type);
}

PyMethodDef methods[] = {
    {"acquire", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(acquire)), METH_VARARGS | METH_KEYWORDS,
     "acquire($self, blocking=True, timeout=-1)\n--\n\nAs threading.RLock.acquire."},
    {"release", release, METH_NOARGS, "As threading.RLock.release."},
    {"__enter__", enter, METH_NOARGS, nullptr},
    {"__exit__", leave, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool wait_unlocked(PyObject* future) {
  const FutureExtra* extra = fields_of(future)->extra;
  if (extra == nullptr || extra->lock_owner == 0) return true;
  return wait_for_lock(future, kNever) != Locked::kError;
}

int lock_depth(const FutureFields& fields) noexcept {
  const FutureExtra* extra = fields.extra;
  return extra != nullptr && extra->lock_owner == PyThread_get_thread_ident() ? extra->lock_depth : 0;
}

PyObject* new_lock(PyObject* future) {
  FutureExtra& extra = extra_of(*fields_of(future));
  if (extra.lock_object != nullptr) return Py_NewRef(extra.lock_object);
  auto* lock = PyObject_New(LockObject, lock_type);
  if (lock == nullptr) return nullptr;
  lock->future = Py_NewRef(future);
  extra.lock_object = reinterpret_cast<PyObject*>(lock);
  return extra.lock_object;
}

PyObject* standard_waiters(PyObject* future) {
  FutureExtra& extra = extra_of(*fields_of(future));
  if (extra.standard_waiters == nullptr) extra.standard_waiters = PyList_New(0);
  return extra.standard_waiters;
}

void tell_standard_waiters(PyObject* future, const char* method) {
  const auto kept = py::reinterpret_borrow<py::object>(future);
  FutureFields& fields = *fields_of(future);
  if (fields.extra == nullptr || fields.extra->standard_waiters == nullptr) return;
  const auto waiters = py::reinterpret_borrow<py::object>(fields.extra->standard_waiters);
  if (PyList_GET_SIZE(waiters.ptr()) == 0) return;
  fields.extra->lock_owner = PyThread_get_thread_ident();
  ++fields.extra->lock_depth;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(waiters.ptr()); ++i) {
    PyObject* told = PyObject_CallMethod(PyList_GET_ITEM(waiters.ptr(), i), method, "O", future);
    if (told == nullptr) log_error("worker_failed", future);
    Py_XDECREF(told);
  }
  const auto lock = py::reinterpret_steal<py::object>(new_lock(future));
  const auto released = py::reinterpret_steal<py::object>(lock ? release(lock.ptr(), nullptr) : nullptr);
  if (!released) log_error("worker_failed", future);
}

void register_future_lock() {
  PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
      {Py_tp_getattro, reinterpret_cast<void*>(get_attribute)},
      {Py_tp_methods, methods},
      {Py_tp_doc, const_cast<char*>("The condition of a future that is held natively.")},
      {0, nullptr},
  };
  PyType_Spec spec{"torchpool._core.FutureLock", sizeof(LockObject), 0,
                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  lock_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  if (lock_type == nullptr) throw py::error_already_set();
}

}  // namespace torchpool
