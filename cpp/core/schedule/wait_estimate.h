// Whether calls mostly wait, for a device or a service, so that they are worth a thread without a core.
#pragma once

#include <atomic>

#include "core/sync/clock.h"
#include "core/sync/mutex.h"

namespace torchpool {

class WaitEstimate {
 public:
  // `mostly`: what is supposed until calls have shown it.
  explicit WaitEstimate(bool mostly) : mostly_(mostly) {}

  struct Call {
    Duration wall;
    Duration cpu;      // of its thread
    Duration process;  // CPU time of all threads of the process meanwhile
    int beside = 1;    // calls like it that ran, itself included
  };
  void record(const Call& call) noexcept TP_EXCLUDES(mutex_);
  bool mostly() const noexcept { return mostly_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> mostly_;
  Mutex mutex_;
  Duration wall_ TP_GUARDED_BY(mutex_){};  // of a call, the mean of the last eight or so
  Duration cpu_ TP_GUARDED_BY(mutex_){};
};

}  // namespace torchpool
