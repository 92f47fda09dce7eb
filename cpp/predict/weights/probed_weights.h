// Weights as they were when something was found out by numbers.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <utility>
#include <vector>

#include "predict/weights/weight_watch.h"

namespace torchpool {

// What numbers have shown, such as that padding does nothing, they have shown for these weights only.
class ProbedWeights {
 public:
  // The constructor, look() and the destructor require the lock that the writers of `live` hold.
  explicit ProbedWeights(std::vector<at::Tensor> live) : watch_(std::move(live)), before_(watch_.take()) {}

  WeightChange look() const noexcept {
    WeightChange change = watch_.form_change();
    if (change == WeightChange::kSame && !watch_.same(before_)) change = WeightChange::kValues;
    if (change != WeightChange::kSame) changed_.store(true, std::memory_order_relaxed);
    return change;
  }
  // As look(), for other storages and forms only: what a worker cannot see.
  void look_at_form() const noexcept {
    if (!changed() && watch_.form_change() != WeightChange::kSame) changed_.store(true, std::memory_order_relaxed);
  }
  // Any thread may call these. Once false, and true, for good: what is written once more may be something else.
  bool same() const noexcept {
    if (!changed() && !watch_.same(before_)) changed_.store(true, std::memory_order_relaxed);
    return !changed();
  }
  bool changed() const noexcept { return changed_.load(std::memory_order_relaxed); }

 private:
  WeightWatch watch_;
  WeightFingerprint before_;
  mutable std::atomic<bool> changed_{false};
};

}  // namespace torchpool
