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
#include "core/schedule/thread_pool.h"
#include "core/sync/event.h"

namespace torchpool {

// Run on the worker's own thread, with no lock of the core but the one that keeps starts apart.
struct LaneHooks {
  // A throw rolls the start of the lane back and is thrown from the open() or post() that started it.
  std::function<void(int worker)> start;
  std::function<void(int worker)> idle;  // before it parks; must not throw
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

// A lane's workers start with the first open() or post() for it: an unused lane costs no threads.
class Runtime {
 public:
  explicit Runtime(RuntimeOptions options = {});
  ~Runtime();  // close(); not on a worker's thread
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // Throws Closed. A handler that is not shared must outlive the channel, whose end waits for what runs.
  std::shared_ptr<Channel> open(ChannelOptions options, BatchHandler& handler, std::shared_ptr<ChannelStats> stats);
  // The channel and what runs in it share the handler, so that the channel's end waits for nothing.
  std::shared_ptr<Channel> open(ChannelOptions options, std::shared_ptr<BatchHandler> handler,
                                std::shared_ptr<ChannelStats> stats);
  // A task that is not a batch. Throws Closed.
  void post(Lane lane, std::unique_ptr<Task> task);
  // Granted only when nothing waits anywhere, nothing runs but tiny inline calls, and the channel is open.
  InlineLease try_inline(Channel& channel, InlineKind kind = InlineKind::kAllCores);
  // Expires the request at its deadline, queued or running, whoever waits for it. Requires: it was submitted.
  void watch_deadline(const RequestPtr& request);

  // Refuses new work, fails what waits with Closed, drops tasks between two steps, lets steps that run end,
  // joins the workers. Idempotent; std::logic_error on a thread of its own workers.
  void close() TP_EXCLUDES(join_mutex_, start_mutex_);
  // Changes the workers of each lane and the cores that a batch has at least, where they are idle; a lone batch has
  // all, workers x cores_per_batch. Returns when workers that are too many have ended their step. std::invalid_argument
  // below 1, std::logic_error on a thread of its own workers; Closed; what a start hook throws, and nothing is changed.
  void resize(int workers, int cores_per_batch) TP_EXCLUDES(join_mutex_, start_mutex_);
  int workers() const noexcept { return workers_.load(std::memory_order_relaxed); }
  int cores_per_batch() const noexcept { return cores_per_batch_.load(std::memory_order_relaxed); }
  Clock& clock() const noexcept;
  // True on a thread of any runtime's workers.
  static bool on_worker_thread() noexcept;

 private:
  void ensure_started(Lane lane) TP_EXCLUDES(start_mutex_);
  // Of the lanes that have any. Starts those that are missing; those that are too many end after their step, and are
  // not waited for.
  void set_workers_locked(int workers) TP_REQUIRES(start_mutex_);
  std::array<ThreadPool*, 2> pools() TP_EXCLUDES(start_mutex_);

  const RuntimeOptions options_;
  std::atomic<int> workers_;
  std::atomic<int> cores_per_batch_{1};
  Clock& clock_;
  const std::shared_ptr<Scheduler> scheduler_;
  DeadlineTimer timer_;
  std::array<std::atomic<bool>, 2> lane_up_{};
  Mutex join_mutex_;   // held while threads are waited for; taken first
  Mutex start_mutex_;  // held while threads start, never while they are waited for: their batches may start a lane
  std::array<std::unique_ptr<ThreadPool>, 2> pools_ TP_GUARDED_BY(start_mutex_);
};

}  // namespace torchpool
