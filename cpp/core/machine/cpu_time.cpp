#include "core/machine/cpu_time.h"

#include <ctime>

namespace torchpool {

namespace {

Duration read_cpu_clock(clockid_t clock) noexcept {
  timespec now{};
  clock_gettime(clock, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace

Duration thread_time() noexcept {
  return read_cpu_clock(CLOCK_THREAD_CPUTIME_ID);
}

Duration process_time() noexcept {
  return read_cpu_clock(CLOCK_PROCESS_CPUTIME_ID);
}

}  // namespace torchpool
