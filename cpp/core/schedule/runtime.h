// Workers and cores shared by all predictors of a process.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>

#include "core/machine/topology.h"
#include "core/queue/deadline_timer.h"
#include "core/schedule/channel.h"
#include "core/schedule/task.h"
#include "core/schedule/thread_group.h"
#include "core/sync/event.h"

namespace torchpool {

// Hooks run on the worker's own thread. No lock of the core is held, but for the one that keeps starts apart.
struct LaneHooks {
  // A throw rolls the start of the lane back and is thrown from the open() or post() that started it.
  std::function<void(int worker)> start;
  std::function<void(int worker)> stop;  // must not throw
  LaneGate* gate = nullptr;              // outlives the runtime's close()
};

struct RuntimeOptions {
  int workers = 0;         // 0: usable_cores()
  Clock* clock = nullptr;  // null: Clock::steady()
  LaneHooks compute;
  LaneHooks interpreter;
};

class Scheduler;

// A lane's workers start with the first open() or post() for that lane: an unused lane costs no threads.
class Runtime {
 public:
  explicit Runtime(RuntimeOptions options = {});
  ~Runtime();  // close(); not on a worker's thread
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // Opens a channel. Throws Closed. A handler that is not shared must outlive the channel, whose destructor waits for
  // running batches.
  std::shared_ptr<Channel> open(ChannelOptions options, BatchHandler& handler, std::shared_ptr<ChannelStats> stats);
  // The channel and its running batches share the handler, so that the channel's destructor waits for nothing.
  std::shared_ptr<Channel> open(ChannelOptions options, std::shared_ptr<BatchHandler> handler,
                                std::shared_ptr<ChannelStats> stats);
  // A task that is not a batch. Throws Closed.
  void post(Lane lane, std::unique_ptr<Task> task);
  // Granted only when no request waits in any channel, nothing runs but tiny inline calls, and the channel is open.
  InlineLease try_inline(Channel& channel, InlineKind kind = InlineKind::kAllCores);
  // Before a request with a deadline is submitted: what watches deadlines runs. Throws NoThread.
  void start_timer() { timer_.start(); }
  // Expires the request at its deadline, queued or running. Requires: the request was submitted.
  void watch_deadline(const RequestPtr& request) noexcept;

  // Refuses new work, fails waiting requests with Closed, drops tasks between two steps, lets running steps end, and
  // joins the workers. Idempotent. Throws std::logic_error on a thread of the runtime's own workers.
  void close() TP_EXCLUDES(join_mutex_, start_mutex_);
  // Changes the workers of each lane, and the cores that a batch has at least, where cores are idle. A lone batch has
  // all cores, workers x cores_per_batch. Returns when superfluous workers have ended their step. Throws
  // std::invalid_argument below 1, std::logic_error on a thread of the runtime's own workers, Closed, and what a start
  // hook throws: nothing is changed then.
  void resize(int workers, int cores_per_batch) TP_EXCLUDES(join_mutex_, start_mutex_);
  // Around a fork: between the two no step begins, and no caller runs its call inline with all cores. pause() waits for
  // what runs, until `until` at most; it returns whether nothing does. The two nest.
  bool pause(TimePoint until);
  void resume();
  int workers() const noexcept { return workers_.load(std::memory_order_relaxed); }
  int cores_per_batch() const noexcept { return cores_per_batch_.load(std::memory_order_relaxed); }
  Clock& clock() const noexcept;
  // True on a thread of any runtime's workers.
  static bool on_worker_thread() noexcept;

 private:
  void ensure_started(Lane lane) TP_EXCLUDES(start_mutex_);
  // For lanes that have workers. Starts missing workers. Superfluous workers end after their step, and are not waited
  // for.
  void set_workers_locked(int workers) TP_REQUIRES(start_mutex_);
  std::array<ThreadGroup*, 2> threads() TP_EXCLUDES(start_mutex_);

  const RuntimeOptions options_;
  std::atomic<int> workers_;
  std::atomic<int> cores_per_batch_{1};
  Clock& clock_;
  const std::shared_ptr<Scheduler> scheduler_;
  DeadlineTimer timer_;
  std::array<std::atomic<bool>, 2> lane_up_{};
  Mutex join_mutex_;   // held while threads are joined; taken first
  Mutex start_mutex_;  // held while threads start, never while threads are joined: their batches may start a lane
  std::array<std::unique_ptr<ThreadGroup>, 2> threads_ TP_GUARDED_BY(start_mutex_);
};

}  // namespace torchpool
