// What every wait of a Python thread shares: limits, signals, and the moment of polling before it sleeps.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/sync/clock.h"
#include "core/sync/parker.h"
#include "core/sync/spin.h"

namespace torchpool {

// The thread that handles signals; set at import and again in a forked child.
void set_main_thread();
// On that thread, waits are cut into slices so that Ctrl-C is seen.
bool handles_signals();
TimePoint signal_slice();
TimePoint after_seconds(double seconds);

// The calling thread's own. Whoever waits on it takes the permit that it was promised before it waits for another.
Parker& own_parker();

// Polling, for the threads of executors and those who wait for their futures. TORCHPOOL_SPIN=0 turns it off; it is off
// where there is one core.
struct Spinning {
  bool allowed = false;
  SpinSeat seat;
  // `soon`: whoever has it was just told to leave.
  bool take_seat(bool soon) noexcept;
  // Counts how often a thread has let go of the interpreter's lock to wait: who was just told of work polls this
  // instead of queueing for a lock that is about to be free.
  std::atomic<std::uint64_t> releases{0};
};
Spinning& spinning();
void set_up_spinning();  // at import, and in a forked child

// Moves the calling thread to another of the cores that it may use, and leaves it free to go where it wants. False when
// it is still on the same one, or had to wait for the other.
bool move_to_other_core();

}  // namespace torchpool
