#include "bindings/awaited/awaited_call.h"

#include <new>
#include <utility>

#include "bindings/awaited/awaited_methods.h"
#include "bindings/call/pending.h"
#include "bindings/interpreter/import_from.h"

namespace torchpool {

namespace {

using State = AwaitedCall::State;

PyTypeObject* awaited_type = nullptr;
// Looked up once at import.
PyObject* get_running_loop = nullptr;
PyObject* handler_name = nullptr;

PyObject* repr(PyObject* self) {
  static constexpr const char* kNames[] = {"pending", "finished", "failed", "cancelled"};
  return PyUnicode_FromFormat("<torchpool call %s>", kNames[static_cast<std::size_t>(awaited_call(self).state)]);
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  const AwaitedCall& call = awaited_call(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(call.loop);
  Py_VISIT(call.waiter);
  Py_VISIT(call.context);
  Py_VISIT(call.more);
  Py_VISIT(call.outcome);
  Py_VISIT(call.why);
  return 0;
}

int clear(PyObject* self) {
  AwaitedCall& call = awaited_call(self);
  Py_CLEAR(call.loop);
  Py_CLEAR(call.waiter);
  Py_CLEAR(call.context);
  Py_CLEAR(call.more);
  Py_CLEAR(call.outcome);
  Py_CLEAR(call.why);
  return 0;
}

// A failure that nobody looked at is told to the loop's exception handler, as asyncio does for its futures.
void finalize(PyObject* self) {
  const AwaitedCall& call = awaited_call(self);
  if (call.state != State::kFailed || call.seen) return;
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyObject* told = Py_BuildValue("{s:s, s:O, s:O}", "message", "the exception of an awaited call was never retrieved",
                                 "exception", call.outcome, "future", self);
  PyObject* done = told == nullptr ? nullptr : PyObject_CallMethodOneArg(call.loop, handler_name, told);
  if (done == nullptr) PyErr_WriteUnraisable(self);
  Py_XDECREF(done);
  Py_XDECREF(told);
  PyErr_Restore(type, value, traceback);
}

void dealloc(PyObject* self) {
  if (PyObject_CallFinalizerFromDealloc(self) < 0) return;
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  clear(self);
  awaited_call(self).request.~shared_ptr();
  awaited_call(self).channel.~weak_ptr();
  type->tp_free(self);
  Py_DECREF(type);
}

// A coroutine cannot raise StopIteration.
py::object awaitable_error(py::object error) {
  if (PyErr_GivenExceptionMatches(error.ptr(), PyExc_StopIteration) == 0) return error;
  PyErr_Format(PyExc_RuntimeError, "the model raised %R", error.ptr());
  return py::error_already_set().value();
}

}  // namespace

py::object new_awaited_call() {
  const auto loop = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(get_running_loop));
  if (!loop) throw py::error_already_set();
  PyObject* self = awaited_type->tp_alloc(awaited_type, 0);  // all zero
  if (self == nullptr) throw py::error_already_set();
  AwaitedCall& call = awaited_call(self);
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

py::object awaited_failure(const py::object& error) {
  py::object object = new_awaited_call();
  AwaitedCall& call = awaited_call(object);
  call.state = State::kFailed;
  call.outcome = awaitable_error(error).release().ptr();
  return object;
}

void settle(AwaitedCall& call) {
  const auto request = std::move(call.request);
  if (call.state != State::kPending || !request) return;
  try {
    call.outcome = take_result(*request).release().ptr();
    call.state = State::kSucceeded;
  } catch (py::error_already_set& error) {
    call.outcome = awaitable_error(error.value()).release().ptr();
    call.state = State::kFailed;
  }
}

bool wake(AwaitedCall& call) {
  if (call.waiter == nullptr || call.state == State::kPending) return true;
  if (call.more != nullptr && !call_more_soon(call)) return false;
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
  handler_name = PyUnicode_InternFromString("call_exception_handler");
  const AwaitedMethods& python = awaited_methods();
  PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
      {Py_tp_finalize, reinterpret_cast<void*>(finalize)},
      {Py_tp_traverse, reinterpret_cast<void*>(traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(clear)},
      {Py_tp_repr, reinterpret_cast<void*>(repr)},
      {Py_tp_iter, reinterpret_cast<void*>(PyObject_SelfIter)},
      {Py_tp_iternext, reinterpret_cast<void*>(python.next)},
      {Py_am_await, reinterpret_cast<void*>(python.await)},
      {Py_am_send, reinterpret_cast<void*>(python.send)},
      {Py_tp_methods, python.methods},
      {Py_tp_getset, python.attributes},
      {Py_tp_doc, const_cast<char*>("One call on its way, for its event loop: a future and a coroutine.")},
      {0, nullptr},
  };
  PyType_Spec spec{"torchpool._core.AwaitedCall", sizeof(AwaitedCall), 0,
                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  awaited_type = reinterpret_cast<PyTypeObject*>(type);
  module.add_object("AwaitedCall", type);
  module.def("failed_call", &awaited_failure, py::arg("error"), "An AwaitedCall that raises this.");
  register_wake_loops(module);
}

}  // namespace torchpool
