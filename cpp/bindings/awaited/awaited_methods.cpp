#include "bindings/awaited/awaited_methods.h"

#include <utility>

#include "bindings/call/pending.h"
#include "bindings/interpreter/import_from.h"

namespace torchpool {

namespace {

using State = AwaitedCall::State;

// Looked up once.
PyObject* cancelled_error = nullptr;  // asyncio's: unlike that of concurrent.futures no Exception
PyObject* invalid_state = nullptr;
PyObject* call_soon_name = nullptr;
PyObject* context_keyword = nullptr;  // ("context",)

PyObject* make_cancelled_error(PyObject* self, PyObject* /*unused*/) {
  const AwaitedCall& call = awaited_call(self);
  return call.why == nullptr ? PyObject_CallNoArgs(cancelled_error) : PyObject_CallOneArg(cancelled_error, call.why);
}

PyObject* set_cancelled(PyObject* self) {
  PyObject* error = make_cancelled_error(self, nullptr);
  if (error != nullptr) PyErr_SetObject(cancelled_error, error);
  Py_XDECREF(error);
  return nullptr;
}

PyObject* set_pending() {
  PyErr_SetString(invalid_state, "the call is not done");
  return nullptr;
}

// The result, a new reference; or null with what it failed with set.
PyObject* result(PyObject* self, PyObject* /*unused*/) {
  AwaitedCall& call = awaited_call(self);
  if (call.state == State::kPending) return set_pending();
  if (call.state == State::kCancelled) return set_cancelled(self);
  if (call.state == State::kSucceeded) return Py_NewRef(call.outcome);
  call.seen = true;
  set_raised(call.outcome);
  return nullptr;
}

PyObject* exception(PyObject* self, PyObject* /*unused*/) {
  AwaitedCall& call = awaited_call(self);
  if (call.state == State::kPending) return set_pending();
  if (call.state == State::kCancelled) return set_cancelled(self);
  call.seen = true;
  return Py_NewRef(call.state == State::kFailed ? call.outcome : Py_None);
}

PyObject* done(PyObject* self, PyObject* /*unused*/) {
  return PyBool_FromLong(awaited_call(self).state != State::kPending ? 1 : 0);
}

PyObject* cancelled(PyObject* self, PyObject* /*unused*/) {
  return PyBool_FromLong(awaited_call(self).state == State::kCancelled ? 1 : 0);
}

PyObject* get_loop(PyObject* self, PyObject* /*unused*/) {
  return Py_NewRef(awaited_call(self).loop);
}

// Lets the loop call `callback` in `context`; false with an error set.
bool call_soon(PyObject* self, PyObject* callback, PyObject* context) {
  PyObject* const args[] = {awaited_call(self).loop, callback, self, context};
  PyObject* handle = PyObject_VectorcallMethod(call_soon_name, args, 3, context_keyword);
  Py_XDECREF(handle);
  return handle != nullptr;
}

bool call_all_soon(PyObject* self) {
  AwaitedCall& call = awaited_call(self);
  if (call.waiter == nullptr) return true;
  const auto waiter = py::reinterpret_steal<py::object>(std::exchange(call.waiter, nullptr));
  const auto context = py::reinterpret_steal<py::object>(std::exchange(call.context, nullptr));
  return call_soon(self, waiter.ptr(), context.ptr()) && call_more_soon(call);
}

// False when it is done, or with an error set.
bool cancel_with(PyObject* self, PyObject* why) {
  AwaitedCall& call = awaited_call(self);
  if (call.state != State::kPending) return false;
  call.state = State::kCancelled;
  call.why = Py_XNewRef(why);
  const auto request = std::move(call.request);
  if (request) cancel_in(call.channel, *request);  // lets go of the lock; all is done that this object must remember
  return call_all_soon(self);
}

// cancel(msg=None): the call leaves its queue, and whoever awaits it is told; False when it is done.
PyObject* cancel(PyObject* self, PyObject* args, PyObject* keywords) {
  static const char* names[] = {"msg", nullptr};
  PyObject* why = Py_None;
  if (PyArg_ParseTupleAndKeywords(args, keywords, "|O:cancel", const_cast<char**>(names), &why) == 0) return nullptr;
  const bool cancelled = cancel_with(self, why == Py_None ? nullptr : why);
  return PyErr_Occurred() != nullptr ? nullptr : PyBool_FromLong(cancelled ? 1 : 0);
}

// add_done_callback(fn, *, context=None)
PyObject* add_done_callback(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
  if (count != 1 || named > 1 ||
      (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "context") != 0)) {
    PyErr_SetString(PyExc_TypeError, "add_done_callback(fn, *, context=None) takes one callback");
    return nullptr;
  }
  AwaitedCall& call = awaited_call(self);
  const auto context = py::reinterpret_steal<py::object>(named == 1 && args[1] != Py_None ? Py_NewRef(args[1])
                                                                                          : PyContext_CopyCurrent());
  if (!context) return nullptr;
  if (call.state != State::kPending) {
    if (!call_soon(self, args[0], context.ptr())) return nullptr;
  } else if (call.waiter == nullptr) {
    call.waiter = Py_NewRef(args[0]);
    call.context = Py_NewRef(context.ptr());
  } else {
    if (call.more == nullptr) call.more = PyList_New(0);
    const auto pair = py::reinterpret_steal<py::object>(PyTuple_Pack(2, args[0], context.ptr()));
    if (call.more == nullptr || !pair || PyList_Append(call.more, pair.ptr()) != 0) return nullptr;
  }
  Py_RETURN_NONE;
}

// remove_done_callback(fn): how many there were.
PyObject* remove_done_callback(PyObject* self, PyObject* callback) {
  AwaitedCall& call = awaited_call(self);
  const auto kept = py::reinterpret_steal<py::object>(PyList_New(0));
  if (!kept) return nullptr;
  Py_ssize_t removed = 0;
  for (Py_ssize_t i = 0; call.more != nullptr && i < PyList_GET_SIZE(call.more); ++i) {
    const auto pair = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(call.more, i));
    const int same = PyObject_RichCompareBool(PyTuple_GET_ITEM(pair.ptr(), 0), callback, Py_EQ);
    if (same < 0 || (same == 0 && PyList_Append(kept.ptr(), pair.ptr()) != 0)) return nullptr;
    removed += same;
  }
  const int first = call.waiter == nullptr ? 0 : PyObject_RichCompareBool(call.waiter, callback, Py_EQ);
  if (first < 0) return nullptr;
  if (removed > 0) Py_XSETREF(call.more, Py_NewRef(kept.ptr()));
  if (first == 1) {
    Py_CLEAR(call.waiter);
    Py_CLEAR(call.context);
    if (call.more != nullptr && PyList_GET_SIZE(call.more) > 0) {  // the next one takes its place
      PyObject* pair = PyList_GET_ITEM(call.more, 0);
      call.waiter = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
      call.context = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
      if (PyList_SetSlice(call.more, 0, 1, nullptr) != 0) return nullptr;
    }
  }
  return PyLong_FromSsize_t(removed + first);
}

PyObject* await(PyObject* self) {
  return Py_NewRef(self);
}

// Hands itself to the task while the call runs, then returns the result.
PySendResult send(PyObject* self, PyObject* /*value*/, PyObject** sent) {
  AwaitedCall& call = awaited_call(self);
  if (call.state != State::kPending) {
    *sent = result(self, nullptr);
    return *sent == nullptr ? PYGEN_ERROR : PYGEN_RETURN;
  }
  call.blocking = true;
  *sent = Py_NewRef(self);
  return PYGEN_NEXT;
}

// The same as an iterator, which is what a traced interpreter asks.
PyObject* next(PyObject* self) {
  PyObject* sent = nullptr;
  if (send(self, Py_None, &sent) != PYGEN_RETURN) return sent;
  PyObject* stop = PyObject_CallOneArg(PyExc_StopIteration, sent);
  if (stop != nullptr) PyErr_SetObject(PyExc_StopIteration, stop);
  Py_XDECREF(stop);
  Py_DECREF(sent);
  return nullptr;
}

PyObject* send_value(PyObject* self, PyObject* /*value*/) {
  return next(self);
}

// throw(type[, value[, traceback]]) as coroutines have it: a call that is thrown at is cancelled, and raises that.
PyObject* throw_at(PyObject* self, PyObject* args) {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  if (PyArg_ParseTuple(args, "O|OO:throw", &type, &value, &traceback) == 0) return nullptr;
  if (!cancel_with(self, nullptr) && PyErr_Occurred() != nullptr) return nullptr;
  if (PyExceptionInstance_Check(type)) {
    set_raised(type);
  } else if (PyExceptionClass_Check(type)) {
    PyErr_SetObject(type, value == Py_None ? nullptr : value);
  } else {
    PyErr_Format(PyExc_TypeError, "exceptions must derive from BaseException, got %R", type);
  }
  return nullptr;
}

PyObject* close(PyObject* self, PyObject* /*unused*/) {
  awaited_call(self).seen = true;
  if (!cancel_with(self, nullptr) && PyErr_Occurred() != nullptr) return nullptr;
  Py_RETURN_NONE;
}

PyObject* get_blocking(PyObject* self, void* /*unused*/) {
  return PyBool_FromLong(awaited_call(self).blocking ? 1 : 0);
}

int set_blocking(PyObject* self, PyObject* value, void* /*unused*/) {
  const int blocking = value == nullptr ? 0 : PyObject_IsTrue(value);
  if (blocking < 0) return -1;
  awaited_call(self).blocking = blocking != 0;
  return 0;
}

PyObject* get_why(PyObject* self, void* /*unused*/) {
  return Py_NewRef(awaited_call(self).why == nullptr ? Py_None : awaited_call(self).why);
}

template <class Function>
PyCFunction as_method(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

bool call_more_soon(AwaitedCall& call) {
  const auto more = py::reinterpret_steal<py::object>(std::exchange(call.more, nullptr));
  for (Py_ssize_t i = 0; more && i < PyList_GET_SIZE(more.ptr()); ++i) {
    PyObject* pair = PyList_GET_ITEM(more.ptr(), i);
    if (!call_soon(reinterpret_cast<PyObject*>(&call), PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1))) {
      return false;
    }
  }
  return true;
}

const AwaitedMethods& awaited_methods() {
  cancelled_error = import_from("asyncio", "CancelledError");
  invalid_state = import_from("asyncio", "InvalidStateError");
  call_soon_name = PyUnicode_InternFromString("call_soon");
  context_keyword = py::make_tuple("context").release().ptr();
  static PyMethodDef methods[] = {
      {"result", result, METH_NOARGS, "The model's output; raises what it raised."},
      {"exception", exception, METH_NOARGS, "What the model raised, or None."},
      {"done", done, METH_NOARGS, nullptr},
      {"cancelled", cancelled, METH_NOARGS, nullptr},
      {"cancel", as_method(cancel), METH_VARARGS | METH_KEYWORDS,
       "Takes the call out of its queue; False when it is done."},
      {"get_loop", get_loop, METH_NOARGS, nullptr},
      {"add_done_callback", as_method(add_done_callback), METH_FASTCALL | METH_KEYWORDS, nullptr},
      {"remove_done_callback", remove_done_callback, METH_O, nullptr},
      {"send", send_value, METH_O, nullptr},
      {"throw", throw_at, METH_VARARGS, nullptr},
      {"close", close, METH_NOARGS, "Takes the call out of its queue."},
      {"_make_cancelled_error", make_cancelled_error, METH_NOARGS, nullptr},
      {nullptr, nullptr, 0, nullptr},
  };
  static PyGetSetDef attributes[] = {
      {"_asyncio_future_blocking", get_blocking, set_blocking, nullptr, nullptr},
      {"_cancel_message", get_why, nullptr, nullptr, nullptr},
      {nullptr, nullptr, nullptr, nullptr, nullptr},
  };
  static const AwaitedMethods python{methods, attributes, await, next, send};
  return python;
}

}  // namespace torchpool
