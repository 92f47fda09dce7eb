#include "bindings/interpreter/gil.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/jit/runtime/jit_exception.h>

#include <cxxabi.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "bindings/interpreter/errors.h"
#include "core/sync/clock.h"
#include "core/sync/mutex.h"
#include "core/sync/thread.h"

namespace torchpool {

PyRef make_ref(py::object object) {
  PyObject* raw = object.release().ptr();
  return {raw, [](void* pointer) {
            auto* kept = static_cast<PyObject*>(pointer);
            if (PyGILState_Check() != 0) {
              Py_XDECREF(kept);
            } else {
              GilReclaimer::instance().reclaim(kept);
            }
          }};
}

py::object borrow(const PyRef& ref) {
  return py::reinterpret_borrow<py::object>(static_cast<PyObject*>(ref.get()));
}

int visit_ref(const PyRef& ref, visitproc visit, void* arg) {
  if (ref.use_count() == 1) Py_VISIT(static_cast<PyObject*>(ref.get()));
  return 0;
}

struct GilReclaimer::State {
  std::atomic<bool> any{false};
  Mutex mutex;
  std::vector<at::Tensor> tensors TP_GUARDED_BY(mutex);
  std::vector<PyObject*> objects TP_GUARDED_BY(mutex);
  CondVar changed;
  bool waiting TP_GUARDED_BY(mutex) = false;  // the thread gives others a moment to drop what there is
  bool ended TP_GUARDED_BY(mutex) = false;
  std::thread thread TP_GUARDED_BY(mutex);  // started by the first that is put by
};

namespace {
constexpr Duration kMoment = std::chrono::milliseconds(250);
}

GilReclaimer::GilReclaimer() : state_(new State) {}

void GilReclaimer::after_fork_in_child() {
  state_ = new State;
}

GilReclaimer& GilReclaimer::instance() {
  static auto* reclaimer = new GilReclaimer;
  return *reclaimer;
}

void GilReclaimer::reclaim(std::vector<at::Tensor> tensors) noexcept {
  if (tensors.empty() || PyGILState_Check() != 0) return;
  MutexLock lock(state_->mutex);
  try {
    for (auto& tensor : tensors) state_->tensors.push_back(std::move(tensor));
  } catch (const std::bad_alloc&) {
    return;  // those that are left are dropped by this thread, which may wait for the interpreter's lock
  }
  put_by(*state_);
}

void GilReclaimer::reclaim(PyObject* object) noexcept {
  if (object == nullptr) return;
  MutexLock lock(state_->mutex);
  try {
    state_->objects.push_back(object);
  } catch (const std::bad_alloc&) {
    return;  // it is never dropped: better than to end the process
  }
  put_by(*state_);
}

void GilReclaimer::put_by(State& state) TP_NO_ANALYSIS {
  state.any.store(true, std::memory_order_release);
  if (state.waiting || state.ended) return;
  state.waiting = true;
  if (state.thread.joinable()) {
    state.changed.notify_one();
    return;
  }
  try {
    state.thread = start_thread([&state] { run(state); });
  } catch (const std::exception&) {  // NoThread: the next one tries again, and a call drops it all the same
    state.waiting = false;
  }
}

void GilReclaimer::run(State& state) noexcept {
  GilGate gate;
  for (;;) {
    {
      MutexLock lock(state.mutex);
      while (!state.waiting && !state.ended) state.changed.wait(state.mutex);
      const TimePoint until = Clock::steady().now() + kMoment;
      while (!state.ended && Clock::steady().now() < until) {
        Clock::steady().wait_until(state.changed, state.mutex, until);
      }
      if (state.ended) break;
      state.waiting = false;
    }
    if (!state.any.load(std::memory_order_acquire)) continue;
    gate.enter();
    gate.leave();
  }
  GilGate::stop_thread();
}

void GilReclaimer::stop() noexcept {
  std::thread thread;
  {
    MutexLock lock(state_->mutex);
    state_->ended = true;
    thread.swap(state_->thread);
    state_->changed.notify_one();
  }
  if (thread.joinable()) thread.join();
}

void GilReclaimer::drain() {
  if (!state_->any.load(std::memory_order_acquire)) return;
  std::vector<at::Tensor> tensors;
  std::vector<PyObject*> objects;
  {
    MutexLock lock(state_->mutex);
    tensors.swap(state_->tensors);
    objects.swap(state_->objects);
    state_->any.store(false, std::memory_order_release);
  }
  for (PyObject* object : objects) Py_DECREF(object);
}

namespace {

struct GateState {
  bool started = false;
  bool holding = false;
  PyGILState_STATE outer = PyGILState_UNLOCKED;
  PyThreadState* saved = nullptr;
};
thread_local GateState gate_state;

}  // namespace

void GilGate::enter() {
  GateState& state = gate_state;
  if (state.holding) return;
  if (state.started) {
    PyEval_RestoreThread(state.saved);
  } else {
    state.outer = PyGILState_Ensure();
    state.started = true;
  }
  state.holding = true;
  GilReclaimer::instance().drain();
}

void GilGate::leave() noexcept {
  GateState& state = gate_state;
  if (!state.holding) return;
  state.holding = false;
  state.saved = PyEval_SaveThread();
}

void GilGate::stop_thread() {
  GateState& state = gate_state;
  if (!state.started) return;
  if (!state.holding) PyEval_RestoreThread(state.saved);
  PyGILState_Release(state.outer);
  state = GateState{};
}

GilGate& GilGate::shared() {
  static auto* gate = new GilGate;
  return *gate;
}

GilRelease::~GilRelease() {
  try {
    PyEval_RestoreThread(saved_);
  } catch (const abi::__forced_unwind&) {
    for (;;) pause();
  }
}

namespace {

// Torch has a type of its own for devices; its allocator on the CPU raises a RuntimeError.
bool is_out_of_memory(PyObject* exception) {
  if (PyErr_GivenExceptionMatches(exception, PyExc_MemoryError) != 0) return true;
  if (PyErr_GivenExceptionMatches(exception, PyExc_RuntimeError) == 0) return false;
  if (std::string_view(Py_TYPE(exception)->tp_name).ends_with("OutOfMemoryError")) return true;
  const auto text = py::reinterpret_steal<py::object>(PyObject_Str(exception));
  if (!text) {
    PyErr_Clear();
    return false;
  }
  return py::cast<std::string>(text).find("can't allocate memory") != std::string::npos;
}

}  // namespace

PyObject* take_raised() noexcept {
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback != nullptr) PyException_SetTraceback(value, traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  return value;
}

void set_raised(PyObject* exception) noexcept {
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception)), exception);
}

PythonError take_python_error() {
  PyObject* value = take_raised();
  const bool out_of_memory = is_out_of_memory(value);
  return PythonError(make_ref(py::reinterpret_steal<py::object>(value)), out_of_memory);
}

void raise_to_python(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const PythonError& raised) {
    set_raised(borrow(raised.exception()).ptr());
  } catch (const Error& raised) {
    set_python_error(raised);
  } catch (const torch::jit::JITException& raised) {
    const py::object type = py::module_::import("torch.jit").attr("Error");
    PyErr_SetString(type.ptr(), raised.what());
  } catch (py::error_already_set& raised) {
    raised.restore();
  } catch (...) {
    torch::translate_exception_to_python(std::current_exception());
  }
  if (PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_RuntimeError, "an exception that is not of C++'s own");
  throw py::error_already_set();
}

}  // namespace torchpool
