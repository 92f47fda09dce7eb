#include "core/schedule/wait_estimate.h"

#include <chrono>

namespace torchpool {

namespace {

// A call shorter than this is over before another thread could be told of it: a hand-over takes 20 to 50 us.
constexpr Duration kWorthThread = std::chrono::microseconds(200);

}  // namespace

void WaitEstimate::record(const Call& call) noexcept {
  const auto keep_a_core_busy = [&](Duration cpu) { return cpu * 4 > call.wall * 3; };
  Duration cpu = call.cpu;
  if (cpu * 2 < call.wall) {
    // Together such calls take all of a core: what one of them waits for, the interpreter's lock as a rule, are the
    // others, and more threads would make that worse. 2,000 calls of an LSTM took 1.5 times as long.
    if (keep_a_core_busy(cpu * call.beside)) {
      cpu = call.wall;
    } else if (keep_a_core_busy(call.process)) {
      return;  // it may have waited for another part of the process, which tells nothing of calls like it
    }
  }
  MutexLock lock(mutex_);
  constexpr int kMemory = 8;
  const bool first = wall_ == Duration::zero();
  wall_ = first ? call.wall : wall_ + (call.wall - wall_) / kMemory;
  cpu_ = first ? cpu : cpu_ + (cpu - cpu_) / kMemory;
  mostly_.store(wall_ >= kWorthThread && cpu_ * 2 < wall_, std::memory_order_relaxed);
}

}  // namespace torchpool
