// The interpreter's lock: who holds it, and who drops what needs it. No other folder names it.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <vector>

#include "core/schedule/task.h"
#include "predict/batch/call_request.h"

namespace torchpool {

namespace py = pybind11;

// A reference to a Python object that may be dropped by any thread: without the lock it is put by until a thread that
// holds the lock comes by.
using PyRef = std::shared_ptr<void>;
PyRef make_ref(py::object object);
py::object borrow(const PyRef& ref);  // requires the lock
// For the cycle collector, which must not hear of a reference twice: one that is shared counts as held from outside.
int visit_ref(const PyRef& ref, visitproc visit, void* arg);

// Note [Who drops an input]: what was put by, for tensors and objects alike.
class GilReclaimer : public Reclaimer {
 public:
  static GilReclaimer& instance();
  void reclaim(std::vector<at::Tensor> tensors) noexcept override;
  void reclaim(PyObject* object) noexcept;
  // Drops what was put by. Requires the lock; costs one relaxed load when there is nothing.
  void drain();
  // Ends the thread that drops what nobody else has dropped within a moment: callers may not come by for hours.
  // Requires that the lock is not held.
  void stop() noexcept;
  // Another thread may have held the mutex at the fork: starts afresh.
  void after_fork_in_child();

 private:
  struct State;
  GilReclaimer();
  static void put_by(State& state);
  static void run(State& state) noexcept;
  State* state_;  // never freed: workers may still come by while the process exits
};

// Holds the lock on an interpreter worker. A worker keeps one thread state for its life, so threading.local data and
// the cost of making it are paid once.
class GilGate : public LaneGate {
 public:
  void enter() override;
  void leave() noexcept override;
  // Has no state of its own: one for all runtimes, never destroyed.
  static GilGate& shared();
  static void stop_thread();  // gives the thread state back; for the lane's stop hook and other native threads
};

// Note [An error that is set]
// Between a call that fails and the throw of py::error_already_set, which takes the error, no code of Python's may run:
// it would clear the error, and taking none ends in "error_already_set called while Python error indicator not set". A
// destructor, a comparison and the drop of a last reference are code of Python's. Who has to do something in between
// makes the py::error_already_set first. In the same way a function that answers "no" by -1 has set an error, which is
// to be cleared, or it is found by the next call that succeeds.

// For what Python calls by a C function pointer: C++ exceptions become Python's.
template <class Body>
PyObject* guarded(Body&& body) {
  try {
    return body();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// Lets go of the lock for a scope. Unlike pybind11's, safe on a daemon thread that outlives the interpreter: CPython
// ends such a thread when it asks for the lock again, by an unwinding that no destructor survives; it sleeps instead,
// as CPython itself does from 3.14 on.
class GilRelease {
 public:
  GilRelease() : saved_(PyEval_SaveThread()) {}
  ~GilRelease();
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  PyThreadState* saved_;
};

// Raised by a model in Python: carries the exception object itself.
class PythonError : public ModelError {
 public:
  explicit PythonError(PyRef exception, bool out_of_memory = false)
      : exception_(std::move(exception)), out_of_memory_(out_of_memory) {}
  const char* what() const noexcept override { return "exception raised by the model in Python"; }
  const PyRef& exception() const noexcept { return exception_; }
  bool out_of_memory() const noexcept override { return out_of_memory_; }

 private:
  PyRef exception_;
  bool out_of_memory_;
};

// The exception that is set as Python's error, with its traceback: a new reference, and no error is set any more.
// Requires the lock.
PyObject* take_raised() noexcept;
// Sets `exception` as Python's error. Requires the lock.
void set_raised(PyObject* exception) noexcept;

// The Python error that is set, as an exception that any thread may drop. Requires the lock and a set error.
PythonError take_python_error();

// Sets the Python error for `error` (from a worker) and throws py::error_already_set. Requires the lock.
[[noreturn]] void raise_to_python(const std::exception_ptr& error);

}  // namespace torchpool
