// One thread of an executor: takes tasks, runs them, waits for more.
#pragma once

#include <memory>
#include <vector>

#include "bindings/executor/task_pool.h"
#include "bindings/futures/future_wait.h"
#include "core/machine/cpu_time.h"
#include "core/sync/spin.h"

namespace torchpool {

// The processor time of a task outside of predictors.
class OwnTime {
 public:
  void start() noexcept {
    spent_ = Duration::zero();
    go_on();
  }
  void go_on() noexcept {
    runs_ = true;
    since_ = thread_time();
  }
  Duration stop() noexcept {
    if (runs_) spent_ += thread_time() - since_;
    runs_ = false;
    return spent_;
  }
  bool runs() const noexcept { return runs_; }

 private:
  Duration spent_{};
  Duration since_{};
  bool runs_ = false;
};

class PoolWorker {
 public:
  explicit PoolWorker(std::shared_ptr<TaskPool> pool) : pool_(std::move(pool)), generation_(pool_->generation()) {}

  // The thread's whole work; returns when the thread is to end: true when the executor has too many. `executor` is a
  // weak reference to it.
  bool run(py::object executor);
  void leave() noexcept;  // the thread ends without having run
  // Whoever was to start the thread could not: false when it runs none the less.
  bool give_up_start() noexcept;

  TaskPool& pool() noexcept { return *pool_; }
  // Runs a task that was taken out of the queue, on this thread, which is in another task.
  void run_nested(FutureFields& task);
  void unpark() noexcept { parker_.unpark(); }
  const std::vector<FutureFields*>& running() const noexcept { return running_; }
  // A strong reference, or an empty handle when it is gone.
  py::object executor() const;
  void expect_release(std::uint64_t releases) noexcept { seen_releases_ = releases; }

  // For the scope in which a task is in a predictor. False where that is of no matter, or known already.
  bool enter_predictor() noexcept;
  void leave_predictor() noexcept { own_time_.go_on(); }

  // The one whose thread this is; null on other threads.
  static PoolWorker* current() noexcept;

 private:
  void run_task(FutureFields& task);
  PyObject* call_measured(FutureFields& task);
  bool start(FutureFields& task);
  void settle(FutureFields& task, PyObject* result);
  void settle_ordinary(PyObject* future, PyObject* result, PyObject* raised);
  void let_others_run();
  void wait_for_work();
  bool poll_for_work(bool moves);

  std::shared_ptr<TaskPool> pool_;
  Parker parker_;
  SpinHistory history_;
  Backoff moves_;
  py::object executor_;
  OwnTime own_time_;
  bool had_task_ = false;
  Waiter* untold_ = nullptr;  // of the task that ended last: woken without the interpreter's lock
  std::vector<FutureFields*> running_;
  TimePoint breathed_{};
  std::uint64_t seen_releases_ = 0;
  int generation_;
  bool started_ = false;
  bool given_up_ = false;
};

// For the scope of a predictor's call: the processor time that it uses is not that of the calling thread's task.
// Nothing on other threads.
class InPredictor {
 public:
  InPredictor() noexcept {
    PoolWorker* worker = PoolWorker::current();
    if (worker != nullptr && worker->enter_predictor()) worker_ = worker;
  }
  ~InPredictor() {
    if (worker_ != nullptr) worker_->leave_predictor();
  }
  InPredictor(const InPredictor&) = delete;
  InPredictor& operator=(const InPredictor&) = delete;

 private:
  PoolWorker* worker_ = nullptr;
};

// For the scope of a wait in a predictor: the calling thread's task does not count meanwhile. Nothing on other threads.
// `useful_tasks`: see Staffing::park.
class ParkedTask {
 public:
  explicit ParkedTask(std::int64_t useful_tasks);
  ~ParkedTask();
  ParkedTask(const ParkedTask&) = delete;
  ParkedTask& operator=(const ParkedTask&) = delete;

 private:
  InPredictor in_predictor_;
  TaskPool* pool_ = nullptr;
  int generation_ = 0;
};

// For the scope of a wait for a future: nothing on threads that are not of the future's executor, and for waits that
// have a limit.
class BlockedTask {
 public:
  BlockedTask(PyObject* future, TimePoint until);
  ~BlockedTask();
  BlockedTask(const BlockedTask&) = delete;
  BlockedTask& operator=(const BlockedTask&) = delete;
  bool failed() const noexcept { return failed_; }  // with an error set

 private:
  PyObject* future_;
  TaskPool* pool_ = nullptr;
  int generation_ = 0;
  bool failed_ = false;
};

}  // namespace torchpool
