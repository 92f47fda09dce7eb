#include "predict/weights/weight_state.h"

#include <algorithm>
#include <limits>

namespace torchpool {

void WeightState::looked(std::uint64_t epoch, bool changed) noexcept {
  if (epoch != epoch_) return;
  if (changed) {
    move();
    return;
  }
  if (quiet_ < std::numeric_limits<int>::max()) ++quiet_;
  if (phase_ == Phase::kMoving && quiet_ >= needed_rest_) {
    phase_ = Phase::kStale;
    quiet_ = 0;  // a change from now on is one that comes right after the packing
  }
}

void WeightState::move() noexcept {
  ++epoch_;
  if (quiet_ >= needed_rest_) {
    quick_changes_ = 0;
    needed_rest_ = patience_.rest;
  }
  ++quick_changes_;
  quiet_ = 0;
  if (quick_changes_ < patience_.quick_changes) {
    phase_ = Phase::kStale;
    return;
  }
  const bool moved_before = quick_changes_ > patience_.quick_changes;
  if (phase_ != Phase::kMoving && moved_before) needed_rest_ = std::min(2 * needed_rest_, patience_.most_rest);
  phase_ = Phase::kMoving;
}

void WeightState::packed(std::uint64_t epoch) noexcept {
  packing_ = false;
  if (epoch == epoch_ && phase_ == Phase::kStale) phase_ = Phase::kPacked;
}

void WeightState::packing_failed(std::uint64_t epoch) noexcept {
  packing_ = false;
  failed_epoch_ = epoch;
}

void WeightState::replaced() noexcept {
  ++epoch_;
  phase_ = Phase::kPacked;
}

void WeightState::lost(std::uint64_t epoch) noexcept {
  if (epoch == epoch_ && phase_ == Phase::kPacked) phase_ = Phase::kStale;
}

}  // namespace torchpool
