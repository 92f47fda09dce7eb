// How a pool and its tasks end other than by being run: deadlines, shutdown, a failed initializer, forks.
#include <limits>

#include "bindings/executor/pool_worker.h"
#include "bindings/executor/task_pool.h"
#include "bindings/futures/future_fork.h"
#include "bindings/futures/future_methods.h"

namespace torchpool {

// All waiting tasks, with the queue's references.
std::vector<FutureFields*> TaskPool::remove_all() {
  std::vector<FutureFields*> all;
  all.reserve(queue_.size());
  while (FutureFields* task = queue_.pop()) {
    if (task->extra != nullptr) task->extra->timed = false;
    all.push_back(task);
  }
  due_.clear();
  return all;
}

double TaskPool::expire() {
  const TimePoint now = Clock::steady().now();
  const auto error = [] {
    return py::reinterpret_steal<py::object>(
        PyObject_CallFunction(PyExc_TimeoutError, "s", "the task had not started by its deadline"));
  };
  while (!due_.empty() && due_.begin()->first <= now) {
    FutureFields& task = *due_.begin()->second;
    PyObject* future = object_of(&task);
    remove(task);
    if (fail_future(future, error().ptr())) ++counts_.expired;
    Py_DECREF(future);
  }
  if (due_.empty()) return std::numeric_limits<double>::infinity();
  return to_seconds(due_.begin()->first.time_since_epoch());
}

void TaskPool::drain_and_stop() {
  stopping_ = true;
  wake_all();
  wake_producers();
}

void TaskPool::shut_down(bool cancel_waiting) {
  shut_down_ = true;
  if (cancel_waiting) {
    for (FutureFields* task : remove_all()) {
      ++counts_.cancelled;
      if (!cancel_unqueued(object_of(task))) PyErr_WriteUnraisable(object_of(task));
      Py_DECREF(object_of(task));
    }
  }
  wake_all();
  wake_producers();
}

void TaskPool::mark_broken(const std::string& why) {
  broken_ = why;
  for (FutureFields* task : remove_all()) {
    PyObject* future = object_of(task);
    const auto error =
        py::reinterpret_steal<py::object>(PyObject_CallFunction(standard.broken_pool, "s", broken_.c_str()));
    if (fail_future(future, error.ptr())) ++counts_.failed;
    Py_DECREF(future);
  }
  wake_producers();
}

void TaskPool::resize(PyObject* executor, int max_workers) {
  staff_.resize(max_workers);
  wake_all();  // those that are too many leave
  while (queue_.size() > static_cast<std::size_t>(staff_.idle) + on_their_way() &&
         staff_.hire(queue_.size()) == Hire::kSpawn) {
    if (!spawn_or_go_on(executor)) throw py::error_already_set();
  }
}

void TaskPool::start(PyObject* executor) {
  if (staff_.threads == 0 && !spawn(executor)) throw py::error_already_set();
}

void TaskPool::after_fork(const py::object& make_exception) {
  ++generation_;
  const PoolWorker* survivor = PoolWorker::current();
  for (FutureFields* task : remove_all()) {
    fail_after_fork(*task, make_exception);
    Py_DECREF(object_of(task));
  }
  for (PoolWorker* worker : workers_) {
    if (worker == survivor) continue;
    for (FutureFields* task : worker->running()) fail_after_fork(*task, make_exception);
  }
  idle_.clear();
  workers_.clear();
  awaited_.clear();
  producers_.clear();
  granted_ = 0;
  waking_ = nullptr;
  Staffing fresh;
  fresh.max_workers = staff_.max_workers;
  fresh.overlap = staff_.overlap;
  fresh.learns = staff_.learns;
  staff_ = fresh;
  counts_ = {};
}

}  // namespace torchpool
