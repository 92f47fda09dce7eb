#include "core/sync/clock.h"

namespace torchpool {
namespace {

class SteadyClock final : public Clock {
 public:
  TimePoint now() const noexcept override { return std::chrono::steady_clock::now(); }
  void wait_until(CondVar& cv, Mutex& mutex, TimePoint until) override TP_REQUIRES(mutex) {
    cv.wait_until(mutex, until);
  }
};

}  // namespace

Clock& Clock::steady() {
  // Never destroyed: threads that end after main() may still read the time.
  static SteadyClock& clock = *new SteadyClock;
  return clock;
}

}  // namespace torchpool
