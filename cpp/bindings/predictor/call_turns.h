// The order of one predictor's calls, as Python threads keep it: the interpreter's lock is released while they wait.
#pragma once

#include <memory>

#include "bindings/predictor/prepared_call.h"
#include "core/schedule/stats.h"
#include "core/sync/call_order.h"

namespace torchpool {

// See Note [The order of calls]. Every method requires the interpreter's lock.
class CallTurns {
 public:
  // What `stats` counts is progress to those who wait.
  explicit CallTurns(std::shared_ptr<ChannelStats> stats) : stats_(std::move(stats)) {}

  // Whether calls on this thread have turns: not inside of another call, which would wait for itself.
  static bool apply_here() noexcept;
  // That of a call that comes now; alone where the module is new to its sizes.
  TurnPtr take(const PreparedCall& call) {
    return call.new_sizes || call.learns_alone ? order_.enter_alone() : order_.enter();
  }
  // The same of a call that changes nothing.
  TurnPtr take_shared() { return order_.enter(); }
  // Whether a call that comes now may run at once, next to others.
  bool open() const noexcept { return order_.open(); }
  // Waits until the turn is open. Not for ever: an earlier call may itself wait for what the calling thread is to do
  // next. Throws DeadlineExceeded where `until` comes first, and what a signal's handler raises.
  void wait(Turn& turn, TimePoint until) const;

 private:
  std::shared_ptr<ChannelStats> stats_;
  CallOrder order_;
};

// A call's turn on its way to the thread that makes the call, as a Python object.
struct HandedTurn {
  TurnPtr turn;  // null once the call has it
};

}  // namespace torchpool
