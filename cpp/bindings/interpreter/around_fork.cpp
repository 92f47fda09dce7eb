#include "bindings/interpreter/around_fork.h"

#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "bindings/interpreter/bound_runtime.h"
#include "bindings/interpreter/waiting.h"
#include "core/machine/running_threads.h"
#include "predict/batch/thread_scope.h"

namespace torchpool {

namespace {

using Runtimes = std::vector<std::shared_ptr<BoundRuntime>>;

constexpr Duration kLongestPause = std::chrono::milliseconds(200);
constexpr Duration kLongestUnrest = std::chrono::milliseconds(20);
constexpr Duration kLook = std::chrono::microseconds(100);  // between two looks at what runs

std::atomic<int> forks_so_far{0};
std::atomic<bool> team_ended{false};  // of the thread that forks; in a child: of the one that has forked it
thread_local Runtimes paused;         // by this thread's fork

bool runs_calls_here(const Runtimes& runtimes) {
  for (const auto& runtime : runtimes) {
    if (runtime->running_here().load(std::memory_order_relaxed) > 0) return true;
  }
  return false;
}

void pause_all(Runtimes runtimes) {
  const TimePoint until = Clock::steady().now() + kLongestPause;
  paused = std::move(runtimes);
  const GilRelease release;  // a step may need it to end
  for (const auto& runtime : paused) runtime->core().pause(until);
  while (runs_calls_here(paused) && Clock::steady().now() < until) std::this_thread::sleep_for(kLook);
}

// With the interpreter's lock, so that threads of Python's sleep: what still runs is about to end, like the team's
// threads, or computes for somebody else.
void wait_for_rest() {
  const TimePoint until = Clock::steady().now() + kLongestUnrest;
  while (others_run() && Clock::steady().now() < until) std::this_thread::sleep_for(kLook);
}

void before_fork(Runtimes runtimes) {
  team_ended = end_intra_op_team();
  if (!must_run_inline()) pause_all(std::move(runtimes));  // a step that forks is not over before
  wait_for_rest();
}

void after_fork_in_parent() {
  for (const auto& runtime : std::exchange(paused, {})) runtime->core().resume();
}

void after_fork_in_child() {
  ++forks_so_far;
  new Runtimes(std::move(paused));  // whose destructor would take locks: never freed
  paused.clear();
  renew_torch_pool();
  set_main_thread();
  set_up_spinning();
  take_back_lent_cores();
  GilReclaimer::instance().after_fork_in_child();
}

}  // namespace

int forks() noexcept {
  return forks_so_far.load(std::memory_order_relaxed);
}

void register_around_fork(py::module_& module) {
  module.def("before_fork", &before_fork, py::arg("runtimes"),
             "Ends the calling thread's OpenMP team, and holds the runtimes' workers between two steps.");
  module.def("after_fork_in_parent", &after_fork_in_parent);
  module.def("after_fork_in_child", &after_fork_in_child);
  module.def(
      "intra_op_team_ended", [] { return team_ended.load(); },
      "In a forked child: whether its first thread may use OpenMP.");
  module.def(
      "leak", [](const py::object& object) { object.inc_ref(); },
      "Keeps an object for ever: one whose threads did not survive a fork can be neither used nor destroyed.");
}

}  // namespace torchpool
