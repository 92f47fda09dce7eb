#include "bindings/executor/pool_worker.h"

#include <sched.h>

#include "bindings/futures/future_lock.h"
#include "bindings/futures/future_methods.h"
#include "bindings/futures/future_standard.h"
#include "bindings/interpreter/waiting.h"

namespace torchpool {

namespace {

constexpr auto kSpinForTask = std::chrono::microseconds(50);     // for the next task
constexpr auto kSpinForRelease = std::chrono::microseconds(10);  // until whoever submitted lets go of the lock
constexpr auto kBreath = std::chrono::milliseconds(1);

thread_local PoolWorker* current_worker = nullptr;

PyObject* call_task(const FutureFields& task) {
  if (task.args == nullptr) return PyObject_CallNoArgs(task.value);
  if (task.one_arg) return PyObject_CallOneArg(task.value, task.args);
  PyObject* keywords = task.extra == nullptr ? nullptr : task.extra->keywords;
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  PyObject* const* args = reinterpret_cast<PyTupleObject*>(task.args)->ob_item;
  return PyObject_Vectorcall(task.value, args, static_cast<std::size_t>(PyTuple_GET_SIZE(task.args) - named), keywords);
}

}  // namespace

PoolWorker* PoolWorker::current() noexcept {
  return current_worker;
}

py::object PoolWorker::executor() const {
  return executor_ ? executor_() : py::none();
}

bool PoolWorker::give_up_start() noexcept {
  if (started_) return false;
  given_up_ = true;
  return true;
}

void PoolWorker::leave() noexcept {
  if (given_up_ || started_ || generation_ != pool_->generation()) return;
  started_ = true;
  pool_->leave(*this);
}

bool PoolWorker::run(py::object executor) {
  if (given_up_) return false;
  started_ = true;
  executor_ = std::move(executor);
  running_.reserve(4);
  current_worker = this;
  pool_->arrive(*this);
  while (generation_ == pool_->generation()) {
    if (FutureFields* task = pool_->take()) {
      if (untold_ != nullptr) wake(std::exchange(untold_, nullptr));
      run_task(*task);
      continue;
    }
    if (pool_->must_leave()) break;
    wait_for_work();
  }
  const bool superfluous = generation_ == pool_->generation() && !pool_->must_end();
  if (generation_ == pool_->generation()) pool_->leave(*this);
  if (untold_ != nullptr) wake(std::exchange(untold_, nullptr));
  current_worker = nullptr;
  executor_ = py::object();
  return superfluous;
}

// A hand-over between two cores that poll takes less than 1 us; on one core, or to a core that sleeps, 10 to 50. The
// kernel wakes a thread where it last ran, so that two which once were on one core stay there: then this one moves.
bool PoolWorker::poll_for_work(bool moves) {
  Spinning& shared = spinning();
  const bool moved = !moves || move_to_other_core();
  const bool woken = moved && spin_until([this] { return parker_.try_take(); }, kSpinForTask);
  shared.seat.leave();
  history_.record(woken);
  if (moves) moves_.record(woken, Clock::steady().now());
  // Queueing for the interpreter's lock costs a system call and a wake-up, and it is often free a moment later: whoever
  // submitted now waits for the result.
  const auto released = [this, &shared] { return shared.releases.load(std::memory_order_acquire) != seen_releases_; };
  if (woken) spin_until(released, kSpinForRelease);
  return woken;
}

void PoolWorker::wait_for_work() {
  Spinning& shared = spinning();
  pool_->go_idle(*this);
  const bool same_core = pool_->caller_cpu() == sched_getcpu();
  const bool may_spin = shared.allowed && (same_core ? moves_.due(Clock::steady().now()) : history_.worth());
  Waiter* waiters = wake_sleepers(std::exchange(untold_, nullptr));
  {
    const GilRelease release;
    shared.releases.fetch_add(1, std::memory_order_release);
    wake(waiters);
    const bool spins = may_spin && shared.take_seat(waiters != nullptr);  // which one of them may just have left
    if (!spins || !poll_for_work(same_core)) parker_.park();
  }
  pool_->set_last_cpu(sched_getcpu());
  if (generation_ == pool_->generation()) pool_->come_back(*this);
}

// A Python function hands the lock over when it is entered, if another thread has asked for it; a C function does not.
// Letting go of the lock by the clock instead would reset the others' 5 ms again and again: they would starve.
void PoolWorker::let_others_run() {
  const TimePoint now = Clock::steady().now();
  if (now - breathed_ < kBreath) return;
  breathed_ = now;
  PyObject* done = PyObject_CallNoArgs(standard.breathe);
  if (done == nullptr) PyErr_WriteUnraisable(standard.breathe);
  Py_XDECREF(done);
}

bool PoolWorker::start(FutureFields& task) {
  PyObject* future = object_of(&task);
  if (!wait_unlocked(future)) log_error("worker_failed", future);
  if (!task.ordinary) {
    task.state = FutureState::kRunning;
    return true;
  }
  PyObject* may_run = call_standard("set_running_or_notify_cancel", future);
  if (may_run == nullptr) log_error("worker_failed", future);
  const bool starts = may_run == Py_True;
  Py_XDECREF(may_run);
  if (starts) return true;
  ++pool_->counts().cancelled;
  task.pool = nullptr;
  const Work work(task);
  return false;
}

void PoolWorker::run_task(FutureFields& task) {
  PyObject* future = object_of(&task);
  if (start(task)) {
    running_.push_back(&task);
    const bool hands_over = PyFunction_Check(task.value) != 0;
    PyObject* result = pool_->staff().learns && running_.size() == 1 ? call_measured(task) : call_task(task);
    running_.pop_back();
    settle(task, result);
    if (!hands_over) let_others_run();
  }
  Py_DECREF(future);
}

// What the first task of a thread costs, against later ones: see OverlapGrowth.
PyObject* PoolWorker::call_measured(FutureFields& task) {
  const bool first = !had_task_;
  const bool measured = first || pool_->growth().asks_for_later();
  if (measured) own_time_.start();
  PyObject* result = call_task(task);
  had_task_ = true;
  OverlapGrowth& growth = pool_->growth();
  if (measured) {
    const Duration own = own_time_.stop();
    first ? growth.note_first(own) : growth.note_later(own);
  }
  if (growth.asks_for_ends()) growth.note_end(Clock::steady().now(), pool_->waiting() > 0);
  return result;
}

bool PoolWorker::enter_predictor() noexcept {
  if (!own_time_.runs()) return false;
  const Duration own = own_time_.stop();
  if (!had_task_) pool_->growth().note_first(own);
  return true;
}

void PoolWorker::run_nested(FutureFields& task) {
  run_task(task);
  if (untold_ != nullptr) wake(std::exchange(untold_, nullptr));
}

// Takes over `result`; null stands for the exception that is set.
void PoolWorker::settle(FutureFields& task, PyObject* result) {
  PyObject* future = object_of(&task);
  PyObject* raised = result == nullptr ? take_raised() : nullptr;
  TaskCounts& counts = pool_->counts();
  ++(raised == nullptr ? counts.succeeded : counts.failed);
  const Work work(task);
  task.pool = nullptr;
  if (!wait_unlocked(future)) log_error("worker_failed", future);
  if (task.ordinary) {
    settle_ordinary(future, result, raised);
  } else {
    task.state = FutureState::kFinished;
    task.failed = raised != nullptr;
    task.value = raised != nullptr ? raised : result;
    track_if_needed(future);
    PyObject* callbacks = detach_callbacks(task);
    // While the lock is held: once it is free, another thread may make the future ordinary, with these waiters.
    tell_standard_waiters(future, task.failed ? "add_exception" : "add_result");
    if (untold_ == nullptr) {
      untold_ = detach_waiters(task);
    } else {
      wake(detach_waiters(task));
    }
    // Told when the lock is let go of, in wait_for_work(), unless something may run before that and take its time.
    if (untold_ != nullptr && (callbacks != nullptr || !work.drops_quietly())) wake(std::exchange(untold_, nullptr));
    if (!call_back(future, callbacks)) log_error("worker_failed", future);
  }
}

void PoolWorker::settle_ordinary(PyObject* future, PyObject* result, PyObject* raised) {
  PyObject* set =
      raised != nullptr ? call_standard("set_exception", future, raised) : call_standard("set_result", future, result);
  if (set == nullptr) log_error("worker_failed", future);
  Py_XDECREF(set);
  Py_XDECREF(result);
  Py_XDECREF(raised);
}

ParkedTask::ParkedTask(std::int64_t useful_tasks) {
  PoolWorker* worker = PoolWorker::current();
  if (worker == nullptr || worker->pool().options().overlap == 0) return;
  pool_ = &worker->pool();
  generation_ = pool_->generation();
  const py::object executor = worker->executor();
  pool_->park(executor.ptr(), useful_tasks);
}

ParkedTask::~ParkedTask() {
  if (pool_ != nullptr && generation_ == pool_->generation()) pool_->unpark();
}

BlockedTask::BlockedTask(PyObject* future, TimePoint until) : future_(future) {
  PoolWorker* worker = PoolWorker::current();
  if (worker == nullptr || until != kNever || fields_of(future)->pool != &worker->pool()) return;
  pool_ = &worker->pool();
  generation_ = pool_->generation();
  failed_ = !pool_->block(*worker, *fields_of(future));
}

BlockedTask::~BlockedTask() {
  if (pool_ != nullptr && generation_ == pool_->generation()) pool_->unblock(*fields_of(future_));
}

}  // namespace torchpool
