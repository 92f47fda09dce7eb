#include "bindings/interpreter/waiting.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "bindings/interpreter/gil.h"
#include "core/machine/topology.h"

namespace torchpool {

namespace {

// Python promises Ctrl-C within 0.1 s; a waiting main thread looks for signals twice as often.
constexpr auto kSignalSlice = std::chrono::milliseconds(50);
std::atomic<unsigned long> main_thread{0};

}  // namespace

void set_main_thread() {
  main_thread.store(PyThread_get_thread_ident(), std::memory_order_relaxed);
}

bool handles_signals() {
  return PyThread_get_thread_ident() == main_thread.load(std::memory_order_relaxed);
}

TimePoint signal_slice() {
  return Clock::steady().now() + kSignalSlice;
}

TimePoint after_seconds(double seconds) {
  if (!(seconds < 1e9)) return kNever;
  return Clock::steady().now() + from_seconds(std::max(seconds, 0.0));
}

Parker& own_parker() {
  thread_local Parker parker;
  return parker;
}

Spinning& spinning() {
  static auto* shared = new Spinning;
  return *shared;
}

bool Spinning::take_seat(bool soon) noexcept {
  constexpr auto kHandOver = std::chrono::microseconds(1);  // a store on one core is seen on another in a tenth of that
  return seat.try_take() || (soon && spin_until([this] { return seat.try_take(); }, kHandOver));
}

void set_up_spinning() {
  const char* wanted = std::getenv("TORCHPOOL_SPIN");
  spinning().allowed = (wanted == nullptr || std::strcmp(wanted, "0") != 0) && usable_cores(read_topology()) > 1;
  spinning().seat.leave();
}

bool move_to_other_core() {
  constexpr auto kBusy = std::chrono::microseconds(300);  // moving to an idle core takes 20 to 100 us
  cpu_set_t all;
  const int here = sched_getcpu();
  if (here < 0 || sched_getaffinity(0, sizeof(all), &all) != 0) return false;
  cpu_set_t others = all;
  CPU_CLR(here, &others);
  if (CPU_COUNT(&others) == 0) return false;
  const TimePoint start = Clock::steady().now();
  if (sched_setaffinity(0, sizeof(others), &others) != 0) return false;
  (void)sched_setaffinity(0, sizeof(all), &all);
  return sched_getcpu() != here && Clock::steady().now() - start < kBusy;
}

}  // namespace torchpool
