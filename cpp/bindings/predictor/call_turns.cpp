#include "bindings/predictor/call_turns.h"

#include <algorithm>

#include "bindings/executor/pool_worker.h"
#include "bindings/interpreter/waiting.h"
#include "bindings/predictor/inline_runner.h"
#include "core/sync/error.h"

namespace torchpool {

namespace {

constexpr Duration kLongestWait = std::chrono::seconds(3);  // without any progress

}  // namespace

bool CallTurns::apply_here() noexcept {
  return !must_run_inline() && !InlineRunner::runs_here();
}

void CallTurns::wait(Turn& turn, TimePoint until) const {
  if (turn.open()) return;
  const ParkedTask parked(0);
  std::uint64_t resolved = stats_->resolved();
  TimePoint patience = Clock::steady().now() + kLongestWait;
  for (;;) {
    bool open = false;
    {
      const GilRelease release;
      open = turn.wait_open(Clock::steady(), std::min({until, patience, signal_slice()}));
    }
    if (open) return;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    const TimePoint now = Clock::steady().now();
    if (now >= until) {
      throw DeadlineExceeded(
          "the deadline of the call passed while it waited for calls before it, one of which may "
          "change the model: its size was new to it");
    }
    const std::uint64_t seen = stats_->resolved();
    if (seen != resolved) patience = now + kLongestWait;
    if (now >= patience) return turn.overtake();
    resolved = seen;
  }
}

}  // namespace torchpool
