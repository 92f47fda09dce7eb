// From the thread that is told of finished calls to the loops that await them.
#include <algorithm>
#include <utility>
#include <vector>

#include "bindings/awaited/awaited_call.h"

namespace torchpool {

namespace {

PyObject* wake_method = nullptr;  // wake(calls), for loops to call
PyObject* soon_name = nullptr;
PyObject* soon_threadsafe_name = nullptr;
PyObject* is_closed_name = nullptr;

AwaitedCall& at(PyObject* list, Py_ssize_t index) {
  return *reinterpret_cast<AwaitedCall*>(PyList_GET_ITEM(list, index));
}

// loop.method(wake, calls); throws what it raises.
void schedule(PyObject* loop, PyObject* method, PyObject* calls) {
  const auto handle =
      py::reinterpret_steal<py::object>(PyObject_CallMethodObjArgs(loop, method, wake_method, calls, nullptr));
  if (!handle) throw py::error_already_set();
}

// Settles calls of one loop, on its thread, and runs the tasks that await them: within this one callback, which costs
// the loop much less than one for each. `calls`: a list, the first one last.
PyObject* settle_and_wake(PyObject* /*self*/, PyObject* calls) {
  return guarded([calls]() -> PyObject* {
    const Py_ssize_t count = PyList_GET_SIZE(calls);
    if (count == 0) return Py_NewRef(Py_None);
    for (Py_ssize_t i = count - 1; i >= 0; --i) settle(at(calls, i));
    // What a task does may end this callback (SystemExit), or run the loop inside of it (as notebooks' helpers do):
    // the loop comes back for those that are left.
    if (count > 1) schedule(at(calls, 0).loop, soon_name, calls);
    for (Py_ssize_t left = PyList_GET_SIZE(calls); left > 0; left = PyList_GET_SIZE(calls)) {
      const auto last = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(calls, left - 1));
      if (PyList_SetSlice(calls, left - 1, left, nullptr) != 0 || !wake(awaited_call(last))) return nullptr;
    }
    return Py_NewRef(Py_None);
  });
}

bool is_closed(PyObject* loop) {
  const auto closed = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(loop, is_closed_name));
  if (!closed) throw py::error_already_set();
  return PyObject_IsTrue(closed.ptr()) == 1;
}

// Never waits for a loop. What one of them raises is reported and keeps none of the others from being told.
void wake_loops(const py::list& done) {
  std::vector<std::pair<PyObject*, std::vector<PyObject*>>> by_loop;  // few: the one before is nearly always the same
  for (const py::handle item : done) {
    PyObject* loop = reinterpret_cast<AwaitedCall*>(item.ptr())->loop;
    auto same = std::find_if(by_loop.rbegin(), by_loop.rend(), [loop](const auto& one) { return one.first == loop; });
    if (same == by_loop.rend()) {
      by_loop.emplace_back(loop, std::vector<PyObject*>());
      same = by_loop.rbegin();
    }
    same->second.push_back(item.ptr());
  }
  for (const auto& [loop, calls] : by_loop) {
    try {
      py::list reversed(calls.size());
      for (std::size_t i = 0; i < calls.size(); ++i) {
        reversed[calls.size() - 1 - i] = py::reinterpret_borrow<py::object>(calls[i]);
      }
      if (is_closed(loop)) continue;  // nobody is left to be told
      schedule(loop, soon_threadsafe_name, reversed.ptr());
    } catch (py::error_already_set& error) {
      if (error.matches(PyExc_RuntimeError) && is_closed(loop)) continue;  // since then
      error.discard_as_unraisable("torchpool: waking an event loop");
    }
  }
}

}  // namespace

void register_wake_loops(py::module_& module) {
  static PyMethodDef wake{"settle_and_wake", settle_and_wake, METH_O, nullptr};
  wake_method = PyCFunction_New(&wake, nullptr);
  soon_name = PyUnicode_InternFromString("call_soon");
  soon_threadsafe_name = PyUnicode_InternFromString("call_soon_threadsafe");
  is_closed_name = PyUnicode_InternFromString("is_closed");
  module.def("wake_loops", &wake_loops, py::arg("done"),
             "Settles these AwaitedCalls on their loops' threads and wakes who awaits them.");
}

}  // namespace torchpool
