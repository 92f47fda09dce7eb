// What an executor's threads share: its queue, who waits for work, and the counts.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/futures/future_object.h"
#include "bindings/interpreter/gil.h"
#include "core/queue/priority_fifo.h"
#include "core/schedule/staffing.h"

namespace torchpool {

class PoolWorker;

struct TaskPoolOptions {
  int max_workers = 1;
  std::optional<int> overlap = 0;  // null: as many as fill batches
  std::size_t queue_size = 0;      // tasks that wait; 0: any number
  bool reject = false;             // a full queue raises QueueFull instead of blocking
};

struct TaskCounts {
  std::uint64_t accepted = 0;
  std::uint64_t succeeded = 0;
  std::uint64_t failed = 0;
  std::uint64_t cancelled = 0;
  std::uint64_t expired = 0;
  std::uint64_t rejected = 0;  // never accepted
  std::uint64_t ran_inline = 0;
};

// How one task is queued.
struct Placement {
  std::int32_t priority = 0;
  TimePoint due = kNever;  // not started by then, it fails with TimeoutError
  bool bypass = false;     // ignores the bound of the queue
};

// Everything here belongs to the interpreter's lock: there is no mutex, and what runs between two lines that call no
// Python is atomic. Outlives its executor as long as threads are at work.
class TaskPool : public std::enable_shared_from_this<TaskPool> {
 public:
  explicit TaskPool(const TaskPoolOptions& options) : options_(options) {
    staff_.max_workers = options.max_workers;
    staff_.overlap = options.overlap.value_or(0);
    staff_.learns = !options.overlap;
  }

  // A new reference to the future of a task; null with an error set. `executor` starts threads (borrowed).
  PyObject* submit(PyObject* executor, PyObject* callable, PyObject* const* args, Py_ssize_t count, PyObject* keywords,
                   const Placement& placement);
  // One task for each tuple of arguments: a list of futures, or null.
  PyObject* submit_each(PyObject* executor, PyObject* callable, PyObject* arguments, const Placement& placement);
  // False with the standard's error set when nothing may be submitted any more.
  bool accepts() const;

  // For the threads.
  void arrive(PoolWorker& worker) { workers_.push_back(&worker); }
  FutureFields* take();  // with the queue's reference; null when there is nothing that the caller may run
  bool must_leave() const;
  bool must_end() const { return queue_.empty() && ends(); }
  void go_idle(PoolWorker& worker);
  void come_back(PoolWorker& worker);
  void leave(PoolWorker& worker);

  // A task that its thread is in waits in a predictor: others may start meanwhile, `overlap` allowing. `useful_tasks`:
  // see Staffing::park.
  void park(PyObject* executor, std::int64_t useful_tasks);
  void unpark() noexcept { --staff_.parked; }
  // A task waits for another one without a limit; false with an error set. See Staffing::stuck().
  bool block(PoolWorker& worker, FutureFields& awaited);
  void unblock(FutureFields& awaited);

  // Takes a waiting task out, with the queue's reference, which the caller has from then on.
  void remove(FutureFields& task) noexcept;
  // Fails what should have started by now; the next such moment in seconds of time.monotonic(), or infinity.
  double expire();
  void shut_down(bool cancel_waiting);
  void drain_and_stop();  // threads end once nothing waits: the executor is gone, or the interpreter goes
  void mark_broken(const std::string& why);  // fails what waits
  void resize(PyObject* executor, int max_workers);
  void start(PyObject* executor);  // a thread, unless there are some
  // In a forked child: its threads are gone, and the tasks belong to the parent.
  void after_fork(const py::object& make_exception);

  TaskCounts& counts() noexcept { return counts_; }
  const Staffing& staff() const noexcept { return staff_; }
  OverlapGrowth& growth() noexcept { return staff_.growth; }
  const TaskPoolOptions& options() const noexcept { return options_; }
  const std::string& broken() const noexcept { return broken_; }
  bool is_shut_down() const noexcept { return shut_down_; }
  std::size_t waiting() const noexcept { return queue_.size(); }
  int generation() const noexcept { return generation_; }
  int last_cpu() const noexcept { return worker_cpu_; }
  int caller_cpu() const noexcept { return caller_cpu_; }
  void set_last_cpu(int cpu) noexcept { worker_cpu_ = cpu; }

 private:
  PyObject* enqueue(PyObject* executor, PyObject* future, const Placement& placement);
  bool make_room(const Placement& placement);
  bool wait_for_room(Parker& parker);
  bool full() const noexcept { return queue_.size() + granted_ >= options_.queue_size; }
  void wake_producers();
  std::vector<FutureFields*> remove_all();
  bool ends() const;
  bool call_someone(PyObject* executor);
  bool spawn(PyObject* executor);
  bool spawn_or_go_on(PyObject* executor);
  std::size_t on_their_way() const noexcept { return static_cast<std::size_t>(staff_.threads) - workers_.size(); }
  void wake_one();
  void wake_all();
  PyObject* refuse(PyObject* future);

  TaskPoolOptions options_;
  Staffing staff_;
  TaskCounts counts_;
  PriorityFifo<FutureFields> queue_;  // owns a reference to each
  std::multimap<TimePoint, FutureFields*> due_;
  std::vector<PoolWorker*> idle_;     // the last to go idle is the first to be woken: its caches are warm
  std::vector<PoolWorker*> workers_;  // all that run
  std::vector<FutureFields*> awaited_;
  std::deque<Parker*> producers_;  // wait for room, in order
  std::size_t granted_ = 0;        // places of producers that were woken and are on their way
  PoolWorker* waking_ = nullptr;
  std::string broken_;
  bool shut_down_ = false;
  bool stopping_ = false;
  int generation_ = 0;  // counts forks
  int caller_cpu_ = -1;
  int worker_cpu_ = -1;
};

}  // namespace torchpool
