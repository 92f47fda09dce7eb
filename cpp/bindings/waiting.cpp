#include "bindings/waiting.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "bindings/gil.h"
#include "core/topology.h"

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
  return Clock::steady().now() +
         std::chrono::duration_cast<Duration>(std::chrono::duration<double>(std::max(seconds, 0.0)));
}

Parker& own_parker() {
  thread_local Parker parker;
  return parker;
}

Spinning& spinning() {
  static auto* shared = new Spinning;
  return *shared;
}

void set_up_spinning() {
  const char* wanted = std::getenv("TORCHPOOL_SPIN");
  spinning().allowed = (wanted == nullptr || std::strcmp(wanted, "0") != 0) && usable_cores(read_topology()) > 1;
  spinning().seat.leave();
}

}  // namespace torchpool
