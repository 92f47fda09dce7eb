// A Runtime with what Python adds: the gate of its interpreter lane and the threads that notify.
#pragma once

#include <atomic>
#include <memory>

#include "bindings/interpreter/around_fork.h"
#include "bindings/interpreter/call_threads.h"
#include "bindings/interpreter/resolver.h"
#include "core/schedule/runtime.h"

namespace torchpool {

class BoundRuntime {
 public:
  // `notify_futures` and `notify_loops` are called with lists of what was given to submit().
  BoundRuntime(int workers, py::object notify_futures, py::object notify_loops);
  ~BoundRuntime();  // close(); on a worker's or resolver's thread, which cannot join itself, a thread of its own does
                    // it

  Runtime& core() noexcept { return *core_; }
  const std::shared_ptr<Resolver>& futures() const noexcept { return futures_; }
  const std::shared_ptr<Resolver>& loops() const noexcept { return loops_; }
  // A caller may run its own call on its own thread when nothing else is to do.
  bool inline_allowed() const noexcept { return inline_allowed_; }
  void forbid_inline() noexcept { inline_allowed_ = false; }
  bool closed() const noexcept { return closed_; }
  // A forked child may neither use nor destroy its parent's: see Note [A child has one thread].
  bool is_parents() const noexcept { return forks_ != forks(); }
  // For calls that run alone and mostly wait.
  const std::shared_ptr<CallThreads>& call_threads() const noexcept { return call_threads_; }
  // Calls that run without a worker just now: on their callers' own threads, and on those for calls that wait.
  std::atomic<int>& running_here() noexcept { return call_threads_->running(); }
  // Fails what waits with Closed, lets what runs finish, joins. Releases the interpreter's lock meanwhile. Idempotent.
  void close();

 private:
  const int forks_ = forks();
  std::atomic<bool> closed_{false};
  bool inline_allowed_ = true;
  std::shared_ptr<Resolver> futures_;
  std::shared_ptr<Resolver> loops_;
  std::shared_ptr<CallThreads> call_threads_;
  std::unique_ptr<Runtime> core_;
};

// On a worker, in a resolver's callback, and while a call runs inline: what waited here could wait for itself.
bool must_run_inline();

// Waits for those that were destroyed on their own threads. Requires that the lock is not held.
void join_reaped_runtimes();

void register_runtime(py::module_& module);

}  // namespace torchpool
