#include "bindings/awaited_call.h"

#include <structmember.h>

#include <new>
#include <utility>

#include "bindings/pending.h"

namespace torchpool {

namespace {

using State = AwaitedCall::State;

PyTypeObject* awaited_type = nullptr;
// Looked up once at import.
PyObject* get_running_loop = nullptr;
PyObject* cancelled_error = nullptr;  // asyncio's: unlike that of concurrent.futures no Exception
PyObject* invalid_state = nullptr;
PyObject* call_soon_name = nullptr;
PyObject* context_keyword = nullptr;  // ("context",)

AwaitedCall& of(PyObject* self) noexcept {
  return *reinterpret_cast<AwaitedCall*>(self);
}

PyObject* set_cancelled(const AwaitedCall& call) {
  PyObject* error =
      call.why == nullptr ? PyObject_CallNoArgs(cancelled_error) : PyObject_CallOneArg(cancelled_error, call.why);
  if (error != nullptr) PyErr_SetObject(cancelled_error, error);
  Py_XDECREF(error);
  return nullptr;
}

// The result, a new reference; or null with what it failed with set.
PyObject* take_outcome(AwaitedCall& call) {
  switch (call.state) {
    case State::kSucceeded:
      return Py_NewRef(call.outcome);
    case State::kFailed: {
      call.state = State::kTaken;
      PyObject* error = std::exchange(call.outcome, nullptr);
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error)), error);
      Py_DECREF(error);
      return nullptr;
    }
    case State::kCancelled:
      return set_cancelled(call);
    case State::kPending:
      PyErr_SetString(invalid_state, "the call is not done");
      return nullptr;
    case State::kTaken:
      break;
  }
  PyErr_SetString(invalid_state, "the call's exception was raised already");
  return nullptr;
}

PyObject* call_soon(PyObject* self) {
  AwaitedCall& call = of(self);
  PyObject* const waiter = std::exchange(call.waiter, nullptr);
  PyObject* const context = std::exchange(call.context, nullptr);
  PyObject* const args[] = {call.loop, waiter, self, context};
  PyObject* handle = PyObject_VectorcallMethod(call_soon_name, args, 3, context_keyword);
  Py_DECREF(waiter);
  Py_DECREF(context);
  return handle;
}

PyObject* result(PyObject* self, PyObject* /*unused*/) {
  return take_outcome(of(self));
}

PyObject* done(PyObject* self, PyObject* /*unused*/) {
  return PyBool_FromLong(of(self).state != State::kPending ? 1 : 0);
}

PyObject* cancelled(PyObject* self, PyObject* /*unused*/) {
  return PyBool_FromLong(of(self).state == State::kCancelled ? 1 : 0);
}

PyObject* get_loop(PyObject* self, PyObject* /*unused*/) {
  return Py_NewRef(of(self).loop);
}

// cancel(msg=None): the call leaves its queue, and whoever awaits it is told; False when it is done.
PyObject* cancel(PyObject* self, PyObject* args, PyObject* keywords) {
  static const char* names[] = {"msg", nullptr};
  PyObject* why = Py_None;
  if (PyArg_ParseTupleAndKeywords(args, keywords, "|O:cancel", const_cast<char**>(names), &why) == 0) return nullptr;
  AwaitedCall& call = of(self);
  if (call.state != State::kPending) Py_RETURN_FALSE;
  call.state = State::kCancelled;
  if (why != Py_None) call.why = Py_NewRef(why);
  const auto request = std::move(call.request);
  if (request) cancel_in(call.channel, *request);  // lets go of the lock; all is done that this object must remember
  if (call.waiter != nullptr) {
    PyObject* handle = call_soon(self);
    if (handle == nullptr) return nullptr;
    Py_DECREF(handle);
  }
  Py_RETURN_TRUE;
}

// add_done_callback(fn, *, context=None)
PyObject* add_done_callback(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
  if (count != 1 || named > 1 ||
      (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "context") != 0)) {
    PyErr_SetString(PyExc_TypeError, "add_done_callback(fn, *, context=None) takes one callback");
    return nullptr;
  }
  AwaitedCall& call = of(self);
  if (call.waiter != nullptr) {
    PyErr_SetString(PyExc_RuntimeError, "one task awaits a call; make a task of it for others to wait for");
    return nullptr;
  }
  PyObject* context = named == 1 && args[1] != Py_None ? Py_NewRef(args[1]) : PyContext_CopyCurrent();
  if (context == nullptr) return nullptr;
  call.waiter = Py_NewRef(args[0]);
  call.context = context;
  if (call.state != State::kPending) {
    PyObject* handle = call_soon(self);
    if (handle == nullptr) return nullptr;
    Py_DECREF(handle);
  }
  Py_RETURN_NONE;
}

PyObject* await(PyObject* self) {
  return Py_NewRef(self);
}

// Hands itself to the task while the call runs, then returns the result.
PySendResult send(PyObject* self, PyObject* /*value*/, PyObject** sent) {
  AwaitedCall& call = of(self);
  if (call.state != State::kPending) {
    *sent = take_outcome(call);
    return *sent == nullptr ? PYGEN_ERROR : PYGEN_RETURN;
  }
  if (call.waiter != nullptr) {
    PyErr_SetString(PyExc_RuntimeError, "a call is awaited by one task, once; await acall() itself");
    *sent = nullptr;
    return PYGEN_ERROR;
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

PyObject* get_blocking(PyObject* self, void* /*unused*/) {
  return PyBool_FromLong(of(self).blocking ? 1 : 0);
}

int set_blocking(PyObject* self, PyObject* value, void* /*unused*/) {
  const int blocking = value == nullptr ? 0 : PyObject_IsTrue(value);
  if (blocking < 0) return -1;
  of(self).blocking = blocking != 0;
  return 0;
}

PyObject* repr(PyObject* self) {
  static constexpr const char* kNames[] = {"pending", "finished", "failed", "cancelled", "failed"};
  return PyUnicode_FromFormat("<torchpool call %s>", kNames[static_cast<std::size_t>(of(self).state)]);
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  const AwaitedCall& call = of(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(call.loop);
  Py_VISIT(call.waiter);
  Py_VISIT(call.context);
  Py_VISIT(call.outcome);
  Py_VISIT(call.why);
  return 0;
}

int clear(PyObject* self) {
  AwaitedCall& call = of(self);
  Py_CLEAR(call.loop);
  Py_CLEAR(call.waiter);
  Py_CLEAR(call.context);
  Py_CLEAR(call.outcome);
  Py_CLEAR(call.why);
  return 0;
}

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  clear(self);
  of(self).request.~shared_ptr();
  of(self).channel.~weak_ptr();
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* import_from(const char* module, const char* name) {
  return py::object(py::module_::import(module).attr(name)).release().ptr();
}

template <class Function>
PyCFunction as_method(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

py::object new_awaited_call() {
  const auto loop = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(get_running_loop));
  if (!loop) throw py::error_already_set();
  PyObject* self = awaited_type->tp_alloc(awaited_type, 0);  // all zero
  if (self == nullptr) throw py::error_already_set();
  AwaitedCall& call = of(self);
  new (&call.request) std::shared_ptr<CallRequest>;
  new (&call.channel) std::weak_ptr<Channel>;
  call.state = State::kPending;
  call.loop = loop.inc_ref().ptr();
  return py::reinterpret_steal<py::object>(self);
}

py::object awaited_result(py::object result) {
  py::object object = new_awaited_call();
  AwaitedCall& call = awaited_call(object);
  call.state = State::kSucceeded;
  call.outcome = result.release().ptr();
  return object;
}

void settle(AwaitedCall& call) {
  const auto request = std::move(call.request);
  if (call.state != State::kPending || !request) return;
  try {
    call.outcome = take_result(*request).release().ptr();
    call.state = State::kSucceeded;
  } catch (py::error_already_set& error) {
    py::object raised = error.value();
    if (error.matches(PyExc_StopIteration)) {  // a coroutine cannot raise it
      PyErr_Format(PyExc_RuntimeError, "the model raised %R", raised.ptr());
      raised = py::error_already_set().value();
    }
    call.outcome = raised.release().ptr();
    call.state = State::kFailed;
  }
}

bool wake(AwaitedCall& call) {
  if (call.waiter == nullptr || call.state == State::kPending) return true;
  const auto waiter = py::reinterpret_steal<py::object>(std::exchange(call.waiter, nullptr));
  const auto context = py::reinterpret_steal<py::object>(std::exchange(call.context, nullptr));
  if (PyContext_Enter(context.ptr()) != 0) return false;
  PyObject* woken = PyObject_CallOneArg(waiter.ptr(), reinterpret_cast<PyObject*>(&call));
  if (PyContext_Exit(context.ptr()) != 0) Py_CLEAR(woken);
  Py_XDECREF(woken);
  return woken != nullptr;
}

void register_awaited_call(py::module_& module) {
  get_running_loop = import_from("asyncio", "get_running_loop");
  cancelled_error = import_from("asyncio", "CancelledError");
  invalid_state = import_from("asyncio", "InvalidStateError");
  call_soon_name = PyUnicode_InternFromString("call_soon");
  context_keyword = py::make_tuple("context").release().ptr();

  static PyMethodDef methods[] = {
      {"result", result, METH_NOARGS, "The model's output; raises what it raised, once."},
      {"done", done, METH_NOARGS, nullptr},
      {"cancelled", cancelled, METH_NOARGS, nullptr},
      {"cancel", as_method(cancel), METH_VARARGS | METH_KEYWORDS,
       "Takes the call out of its queue; False when it is done."},
      {"get_loop", get_loop, METH_NOARGS, nullptr},
      {"add_done_callback", as_method(add_done_callback), METH_FASTCALL | METH_KEYWORDS, nullptr},
      {nullptr, nullptr, 0, nullptr},
  };
  static PyGetSetDef attributes[] = {
      {"_asyncio_future_blocking", get_blocking, set_blocking, nullptr, nullptr},
      {nullptr, nullptr, nullptr, nullptr, nullptr},
  };
  PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(clear)},
      {Py_tp_repr, reinterpret_cast<void*>(repr)},
      {Py_tp_iter, reinterpret_cast<void*>(PyObject_SelfIter)},
      {Py_tp_iternext, reinterpret_cast<void*>(next)},
      {Py_am_await, reinterpret_cast<void*>(await)},
      {Py_am_send, reinterpret_cast<void*>(send)},
      {Py_tp_methods, methods},
      {Py_tp_getset, attributes},
      {Py_tp_doc, const_cast<char*>("One awaited call.")},
      {0, nullptr},
  };
  PyType_Spec spec{"torchpool._core.AwaitedCall", sizeof(AwaitedCall), 0,
                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  awaited_type = reinterpret_cast<PyTypeObject*>(type);
  module.add_object("AwaitedCall", type);
  register_wake_loops(module);
}

}  // namespace torchpool
