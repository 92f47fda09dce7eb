#include "bindings/executor/task_pool.h"

#include <sched.h>

#include <algorithm>

#include "bindings/executor/pool_worker.h"
#include "bindings/interpreter/errors.h"
#include "bindings/interpreter/waiting.h"
#include "core/sync/error.h"

namespace torchpool {

namespace {

// Set by the standard's own exit hook, which waits for our threads as for its own.
bool interpreter_is_ending() {
  PyObject* flag = PyDict_GetItemString(standard.thread_module, "_shutdown");
  return flag != nullptr && flag != Py_False;
}

// The arguments of a vectorcall, kept in the future; false with an error set.
bool keep_arguments(FutureFields& task, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  if (count + named == 0) return true;
  if (count == 1 && named == 0) {
    task.args = Py_NewRef(args[0]);
    task.one_arg = true;
    return true;
  }
  PyObject* all = PyTuple_New(count + named);
  if (all == nullptr) return false;
  for (Py_ssize_t i = 0; i < count + named; ++i) PyTuple_SET_ITEM(all, i, Py_NewRef(args[i]));
  task.args = all;
  if (named > 0) extra_of(task).keywords = Py_NewRef(keywords);
  return true;
}

}  // namespace

bool TaskPool::accepts() const {
  if (!broken_.empty()) {
    PyErr_SetString(standard.broken_pool, broken_.c_str());
  } else if (shut_down_) {
    PyErr_SetString(PyExc_RuntimeError, "cannot schedule new futures after shutdown");
  } else if (interpreter_is_ending()) {
    PyErr_SetString(PyExc_RuntimeError, "cannot schedule new futures after interpreter shutdown");
  } else {
    return true;
  }
  return false;
}

bool TaskPool::ends() const {
  return stopping_ || shut_down_ || interpreter_is_ending();
}

PyObject* TaskPool::submit(PyObject* executor, PyObject* callable, PyObject* const* args, Py_ssize_t count,
                           PyObject* keywords, const Placement& placement) {
  if (!accepts() || !make_room(placement)) return nullptr;
  PyObject* future = new_future(future_type);
  if (future == nullptr) return nullptr;
  FutureFields& task = *fields_of(future);
  task.value = Py_NewRef(callable);
  if (!keep_arguments(task, args, count, keywords)) {
    Py_DECREF(future);
    return nullptr;
  }
  return enqueue(executor, future, placement);
}

PyObject* TaskPool::submit_each(PyObject* executor, PyObject* callable, PyObject* arguments,
                                const Placement& placement) {
  const auto futures = py::reinterpret_steal<py::object>(PyList_New(0));
  const auto iterator = py::reinterpret_steal<py::object>(PyObject_GetIter(arguments));
  if (!futures || !iterator) return nullptr;
  while (PyObject* tuple = PyIter_Next(iterator.ptr())) {
    const auto args = py::reinterpret_steal<py::object>(tuple);
    const Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    PyObject* future =
        submit(executor, callable, reinterpret_cast<PyTupleObject*>(tuple)->ob_item, count, nullptr, placement);
    if (future == nullptr) return nullptr;
    const int appended = PyList_Append(futures.ptr(), future);
    Py_DECREF(future);
    if (appended != 0) return nullptr;
  }
  return PyErr_Occurred() == nullptr ? Py_NewRef(futures.ptr()) : nullptr;
}

// Takes over `future`.
PyObject* TaskPool::enqueue(PyObject* executor, PyObject* future, const Placement& placement) {
  FutureFields& task = *fields_of(future);
  task.pool = this;
  if (placement.due != kNever) {
    FutureExtra& extra = extra_of(task);
    extra.due = due_.emplace(placement.due, &task);
    extra.timed = true;
  }
  queue_.push(task, placement.priority);
  Py_INCREF(future);
  ++counts_.accepted;
  return call_someone(executor) ? future : refuse(future);
}

// Nobody will run it: no thread could be started. With the error set that says why.
PyObject* TaskPool::refuse(PyObject* future) {
  FutureFields& task = *fields_of(future);
  if (task.queued) {
    remove(task);
    Py_DECREF(future);
    const Work work(task);
    task.state = FutureState::kCancelled;
    --counts_.accepted;
  }
  Py_DECREF(future);
  return nullptr;
}

bool TaskPool::call_someone(PyObject* executor) {
  switch (staff_.hire(queue_.size())) {
    case Hire::kNobody:
      return true;
    case Hire::kWake:
      caller_cpu_ = sched_getcpu();
      wake_one();
      return true;
    case Hire::kSpawn:
      break;
  }
  return spawn_or_go_on(executor);
}

// As spawn(), but false only where there is no thread at all, or what was raised is not about threads.
bool TaskPool::spawn_or_go_on(PyObject* executor) {
  if (spawn(executor)) return true;
  if (staff_.threads == 0 || PyErr_ExceptionMatches(PyExc_RuntimeError) == 0) return false;
  if (ends()) {
    PyErr_Clear();  // none is started then
  } else {
    log_error("thread_failed", executor);
  }
  return true;  // those that are there will come to it
}

// False with an error set.
bool TaskPool::spawn(PyObject* executor) {
  if (executor == Py_None) return true;  // it is gone, and so are those who submit
  const auto worker = std::make_shared<PoolWorker>(shared_from_this());
  staff_.add_thread();
  const py::object handle = py::cast(worker);
  PyObject* started = PyObject_CallMethod(executor, "_start_worker", "O", handle.ptr());
  if (started == nullptr && worker->give_up_start()) staff_.remove_thread();
  Py_XDECREF(started);
  return started != nullptr;
}

void TaskPool::wake_one() {
  if (idle_.empty()) return;  // all that count as idle are on their way
  PoolWorker* worker = idle_.back();
  idle_.pop_back();
  waking_ = worker;
  staff_.waking = true;
  worker->expect_release(spinning().releases.load(std::memory_order_relaxed));
  worker->unpark();
}

void TaskPool::wake_all() {
  std::vector<PoolWorker*> idle;
  idle.swap(idle_);
  for (PoolWorker* worker : idle) worker->unpark();
}

FutureFields* TaskPool::take() {
  if (!due_.empty()) expire();
  if (queue_.empty() || !staff_.may_take() || (staff_.too_many() && !staff_.others_blocked())) return nullptr;
  FutureFields* task = queue_.pop();
  if (task->extra != nullptr && task->extra->timed) {
    due_.erase(task->extra->due);
    task->extra->timed = false;
  }
  if (!producers_.empty()) wake_producers();
  if (!queue_.empty() && staff_.idle > 0 && !staff_.waking && staff_.spare() > 0) wake_one();
  return task;
}

void TaskPool::remove(FutureFields& task) noexcept {
  queue_.erase(task);
  if (task.extra != nullptr && task.extra->timed) {
    due_.erase(task.extra->due);
    task.extra->timed = false;
  }
  if (!producers_.empty()) wake_producers();
}

bool TaskPool::must_leave() const {
  return (staff_.too_many() && !staff_.others_blocked()) || must_end();
}

void TaskPool::go_idle(PoolWorker& worker) {
  ++staff_.idle;
  idle_.push_back(&worker);
}

void TaskPool::come_back(PoolWorker& worker) {
  --staff_.idle;
  if (waking_ != &worker) return;
  waking_ = nullptr;
  staff_.waking = false;
}

void TaskPool::leave(PoolWorker& worker) {
  staff_.remove_thread();
  std::erase(workers_, &worker);
  if (ends()) {
    wake_all();  // one that may not take anything now would sleep on
  } else if (!queue_.empty() && staff_.idle > 0 && !staff_.waking && staff_.spare() > 0) {
    wake_one();
  }
}

void TaskPool::park(PyObject* executor, std::int64_t useful_tasks) {
  staff_.park(useful_tasks);
  if (!queue_.empty() && !call_someone(executor)) log_error("thread_failed", executor);
}

bool TaskPool::block(PoolWorker& worker, FutureFields& awaited) {
  ++staff_.blocked;
  awaited_.push_back(&awaited);
  while (staff_.stuck() && !is_done(awaited)) {
    // The last to wait comes first: that is the caller's own.
    const auto waits = std::find_if(awaited_.rbegin(), awaited_.rend(), [](auto* future) { return future->queued; });
    if (waits == awaited_.rend()) break;  // they wait for each other
    FutureFields& task = **waits;
    if (Py_EnterRecursiveCall(" in tasks that wait for each other") != 0) return false;
    remove(task);
    --staff_.blocked;
    ++counts_.ran_inline;
    worker.run_nested(task);
    ++staff_.blocked;
    Py_LeaveRecursiveCall();
  }
  return true;
}

void TaskPool::unblock(FutureFields& awaited) {
  --staff_.blocked;
  if (staff_.too_many()) wake_all();  // one that had to stay for those who were blocked may leave
  const auto last = std::find(awaited_.rbegin(), awaited_.rend(), &awaited);
  awaited_.erase(std::next(last).base());
}

// False with an error set.
bool TaskPool::make_room(const Placement& placement) {
  PoolWorker* worker = PoolWorker::current();
  const bool bound = options_.queue_size > 0 && !placement.bypass && (worker == nullptr || &worker->pool() != this);
  if (!bound || (!full() && producers_.empty())) return true;
  if (!options_.reject) return wait_for_room(own_parker()) && accepts();
  ++counts_.rejected;
  set_python_error(QueueFull("the executor's queue is full: " + std::to_string(queue_.size()) +
                             " tasks wait, queue_size=" + std::to_string(options_.queue_size)));
  return false;
}

bool TaskPool::wait_for_room(Parker& parker) {
  const std::shared_ptr<TaskPool> kept = shared_from_this();
  const bool slices = handles_signals();
  producers_.push_back(&parker);
  for (;;) {
    bool woken = false;
    {
      const GilRelease release;
      woken = parker.park_until(slices ? signal_slice() : kNever);
    }
    const auto place = std::find(producers_.begin(), producers_.end(), &parker);
    const bool granted = place == producers_.end();
    if (granted && !woken) parker.park();
    const bool interrupted = slices && !woken && PyErr_CheckSignals() != 0;
    if (!granted && !interrupted) continue;
    if (granted) --granted_;
    if (interrupted) std::erase(producers_, &parker);
    if (interrupted || !queue_.empty()) wake_producers();
    return !interrupted;
  }
}

// Those that there is room for; all of them when nothing is accepted any more, to be told so.
void TaskPool::wake_producers() {
  const bool refuses = ends() || !broken_.empty();
  while (!producers_.empty() && (refuses || !full())) {
    Parker* first = producers_.front();
    producers_.pop_front();
    ++granted_;
    first->unpark();
  }
}

}  // namespace torchpool
