// torchpool.ThreadPoolExecutor's native side: its pool, its workers, and submit().
#include "bindings/executor/bind_executor.h"

#include <structmember.h>

#include <algorithm>
#include <limits>

#include "bindings/executor/pool_worker.h"
#include "bindings/executor/task_pool.h"
#include "bindings/futures/call_future.h"
#include "bindings/futures/call_group.h"
#include "bindings/futures/future_methods.h"
#include "bindings/inplace/class_watch.h"
#include "bindings/interpreter/waiting.h"

namespace torchpool {

namespace {

constexpr const char* kHandle = "torchpool.pool";

// Where an executor keeps the handle of its pool: a slot of the Python class.
Py_ssize_t handle_offset = 0;
// Callables that take their calls to a queue of their own.
std::vector<PyTypeObject*> predictor_types;

TaskPool* pool_of(PyObject* executor) {
  PyObject* handle = *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(executor) + handle_offset);
  if (handle == nullptr) {
    PyErr_Format(PyExc_RuntimeError, "%s.__init__() was not called", Py_TYPE(executor)->tp_name);
    return nullptr;
  }
  auto* owner = static_cast<std::shared_ptr<TaskPool>*>(PyCapsule_GetPointer(handle, kHandle));
  return owner == nullptr ? nullptr : owner->get();
}

py::capsule handle_of(const std::shared_ptr<TaskPool>& pool) {
  const auto destroy = [](PyObject* capsule) {
    delete static_cast<std::shared_ptr<TaskPool>*>(PyCapsule_GetPointer(capsule, kHandle));
  };
  return py::capsule(new std::shared_ptr<TaskPool>(pool), kHandle, destroy);
}

bool is_predictor(PyObject* callable) {
  const PyTypeObject* type = Py_TYPE(callable);
  return std::any_of(predictor_types.begin(), predictor_types.end(), [type](auto* known) { return known == type; });
}

// By a method of the executor's: (callable, arguments, keywords).
PyObject* submit_by(const char* method, PyObject* executor, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  py::tuple positional(static_cast<std::size_t>(count - 1));
  for (Py_ssize_t i = 1; i < count; ++i) positional[i - 1] = py::reinterpret_borrow<py::object>(args[i]);
  py::dict named;
  const Py_ssize_t more = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
  for (Py_ssize_t i = 0; i < more; ++i)
    named[PyTuple_GET_ITEM(names, i)] = py::reinterpret_borrow<py::object>(args[count + i]);
  return PyObject_CallMethod(executor, method, "OOO", args[0], positional.ptr(), named.ptr());
}

// submit(fn, /, *args, **kwargs)
PyObject* submit(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  if (count < 1) {
    PyErr_SetString(PyExc_TypeError, "submit() missing 1 required positional argument: 'fn'");
    return nullptr;
  }
  TaskPool* pool = pool_of(self);
  if (pool == nullptr) return nullptr;
  return guarded([=] {
    if (is_predictor(args[0])) return submit_by("_submit_call", self, args, count, names);
    if (may_be_accelerated(args[0])) return submit_by("_submit_to_module", self, args, count, names);
    return pool->submit(self, args[0], args + 1, count - 1, names, {});
  });
}

PyMethodDef submit_method = {"submit", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(submit)),
                             METH_FASTCALL | METH_KEYWORDS,
                             "submit($self, fn, /, *args, **kwargs)\n--\n\n"
                             "A future of fn(*args, **kwargs), as concurrent.futures.Executor.submit."};
PyMethodDef take_method = {"take_result_or_cancel",
                           reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(take_result_or_cancel)),
                           METH_FASTCALL,
                           "take_result_or_cancel(future, until, /)\n--\n\n"
                           "The future's result; one that is not there by then (seconds of time.monotonic(), or None) "
                           "is cancelled, and TimeoutError raised."};

// Puts submit() on the class, whose instances keep their pool's handle in the slot `_handle`. `hooks`: a module of what
// is called in Python.
void finish_executor_class(const py::object& type, const py::tuple& predictors, const py::object& hooks) {
  standard.hooks = py::object(hooks).release().ptr();
  standard.breathe = py::object(hooks.attr("breathe")).release().ptr();
  const py::object slot = type.attr("_handle");
  if (Py_TYPE(slot.ptr()) != &PyMemberDescr_Type) throw py::type_error("_handle is to be a slot of the class");
  handle_offset = reinterpret_cast<PyMemberDescrObject*>(slot.ptr())->d_member->offset;
  auto* owner = reinterpret_cast<PyTypeObject*>(type.ptr());
  type.attr("submit") = py::reinterpret_steal<py::object>(PyDescr_NewMethod(owner, &submit_method));
  for (const py::handle predictor : predictors) {
    predictor_types.push_back(reinterpret_cast<PyTypeObject*>(predictor.inc_ref().ptr()));
  }
}

Placement placement_of(std::int32_t priority, double due, bool bypass) {
  Placement placement{priority, kNever, bypass};
  if (due < 9e9) {  // seconds; more do not fit in as many nanoseconds
    placement.due = TimePoint(from_seconds(due));
  }
  return placement;
}

py::object steal_or_raise(PyObject* result) {
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

py::object submit_one(TaskPool& pool, const py::object& executor, const py::object& callable, const py::tuple& args,
                      const py::dict& kwargs, std::int32_t priority, double due, bool bypass) {
  std::vector<PyObject*> all;
  for (const py::handle value : args) all.push_back(value.ptr());
  py::tuple names(kwargs.size());
  std::size_t index = 0;
  for (const auto& [name, value] : kwargs) {
    names[index++] = name;
    all.push_back(value.ptr());
  }
  PyObject* keywords = kwargs.empty() ? nullptr : names.ptr();
  return steal_or_raise(pool.submit(executor.ptr(), callable.ptr(), all.data(), static_cast<Py_ssize_t>(args.size()),
                                    keywords, placement_of(priority, due, bypass)));
}

py::dict stats_of(TaskPool& pool) {
  const TaskCounts& counts = pool.counts();
  const Staffing& staff = pool.staff();
  py::dict stats;
  stats["max_workers"] = staff.max_workers;
  stats["threads"] = staff.threads;
  stats["idle"] = staff.idle;
  stats["parked"] = staff.parked;
  stats["waiting"] = pool.waiting();
  stats["accepted"] = counts.accepted;
  stats["resolved"] = counts.succeeded + counts.failed + counts.cancelled + counts.expired;
  stats["succeeded"] = counts.succeeded;
  stats["failed"] = counts.failed;
  stats["cancelled"] = counts.cancelled;
  stats["expired"] = counts.expired;
  stats["rejected"] = counts.rejected;
  stats["ran_inline"] = counts.ran_inline;
  return stats;
}

}  // namespace

void register_executor(py::module_& module) {
  set_main_thread();
  set_up_spinning();
  register_future(module);
  register_call_future(module);
  register_call_group(module);
  py::class_<PoolWorker, std::shared_ptr<PoolWorker>>(module, "PoolWorker", "One thread of an executor.")
      .def(
          "run", &PoolWorker::run, py::arg("executor"),
          "The thread's work. Takes a weak reference to the executor; returns when the thread is to end: True when the "
          "executor has too many.")
      .def("leave", &PoolWorker::leave, "The thread ends without having worked.");
  constexpr double kForever = std::numeric_limits<double>::infinity();
  py::class_<TaskPool, std::shared_ptr<TaskPool>>(module, "TaskPool", "What the threads of an executor share.")
      .def(py::init([](int max_workers, std::optional<int> overlap, std::size_t queue_size, bool reject) {
             return std::make_shared<TaskPool>(TaskPoolOptions{max_workers, overlap, queue_size, reject});
           }),
           py::arg("max_workers"), py::arg("overlap"), py::arg("queue_size"), py::arg("reject"))
      .def("handle", [](const std::shared_ptr<TaskPool>& pool) { return handle_of(pool); })
      .def("submit", &submit_one, py::arg("executor"), py::arg("fn"), py::arg("args"), py::arg("kwargs"),
           py::arg("priority") = 0, py::arg("due") = kForever, py::arg("bypass") = false)
      .def(
          "submit_each",
          [](TaskPool& pool, const py::object& executor, const py::object& callable, const py::object& arguments,
             std::int32_t priority) {
            return steal_or_raise(pool.submit_each(executor.ptr(), callable.ptr(), arguments.ptr(), {priority}));
          },
          py::arg("executor"), py::arg("fn"), py::arg("arguments"), py::arg("priority") = 0)
      .def(
          "start", [](TaskPool& pool, const py::object& executor) { pool.start(executor.ptr()); }, py::arg("executor"),
          "Starts a thread, unless there are some.")
      .def("check",
           [](const TaskPool& pool) {
             if (!pool.accepts()) throw py::error_already_set();
           })
      .def(
          "put", [](TaskPool& pool, const py::object&) { pool.drain_and_stop(); }, py::arg("item"),
          "What the standard library's exit hook calls on a thread's queue.")
      .def("shut_down", &TaskPool::shut_down, py::arg("cancel_waiting"))
      .def("mark_broken", &TaskPool::mark_broken, py::arg("why"))
      .def(
          "resize", [](TaskPool& pool, const py::object& executor, int n) { pool.resize(executor.ptr(), n); },
          py::arg("executor"), py::arg("max_workers"))
      .def("expire", &TaskPool::expire)
      .def("after_fork", &TaskPool::after_fork, py::arg("make_exception"))
      .def("stats", &stats_of)
      .def_property_readonly("broken",
                             [](const TaskPool& pool) -> py::object {
                               if (pool.broken().empty()) return py::bool_(false);
                               return py::str(pool.broken());
                             })
      .def_property_readonly("max_workers", [](const TaskPool& pool) { return pool.staff().max_workers; })
      .def_property_readonly("is_shut_down", &TaskPool::is_shut_down);
  module.def("finish_executor_class", &finish_executor_class, py::arg("type"), py::arg("predictors"), py::arg("hooks"));
  module.add_object("take_result_or_cancel", PyCFunction_New(&take_method, nullptr));
}

}  // namespace torchpool
