// Whether weights rest or move, and so whether packing them is worth the time.
#pragma once

#include <cstdint>
#include <optional>

namespace torchpool {

// A packed copy is faster to compute with and costs some 10 batches to make. Weights that change once (load_state_dict)
// are packed anew at once; weights that keep changing (a training loop beside the predictions) are read unpacked until
// they have rested for a while.
//
//   kPacked --changed--> kStale --packed()--> kPacked
//      |                   |  changed again, too soon and too often
//      +---------------> kMoving --rested--> kStale
//
// Time is counted in looks, one a batch. Several workers look at once: each names the epoch of the fingerprint that it
// compared with, and a report about an earlier epoch is ignored. Not thread-safe: the owner's mutex guards the state.
class WeightState {
 public:
  enum class Phase : std::uint8_t {
    kPacked,  // the packed copy is of the present weights
    kStale,   // the packed copy is out of date: serve from the live weights, and pack them behind the calls
    kMoving,  // serve from the live weights; do not pack
  };
  struct Patience {
    int quick_changes = 2;  // in a row, until weights count as moving
    int rest = 16;          // looks without a change, until they count as resting
    int most_rest = 1024;   // `rest` doubles each time that weights move again right after they were packed
  };

  WeightState() = default;
  explicit WeightState(Patience patience) : patience_(patience), needed_rest_(patience.rest) {}

  Phase phase() const noexcept { return phase_; }
  bool should_pack() const noexcept { return phase_ == Phase::kStale && !packing_ && failed_epoch_ != epoch_; }
  // Grows by one at each change. The owner takes a new fingerprint whenever the epoch has changed.
  std::uint64_t epoch() const noexcept { return epoch_; }

  // Reports one look at the weights: a comparison with the fingerprint of `epoch`.
  void looked(std::uint64_t epoch, bool changed) noexcept;
  // start_packing(): a thread packs the weights of the present epoch. packed(): it has packed them. Weights that
  // changed meanwhile leave the copy useless: the phase says whether to try again.
  void start_packing() noexcept { packing_ = true; }
  void packed(std::uint64_t epoch) noexcept;
  // Packing is not tried again before the weights change: the same weights would fail again, at every batch.
  void packing_failed(std::uint64_t epoch) noexcept;
  // Other weights, with their packed copy: a change that its maker says is complete.
  void replaced() noexcept;
  // The packed copy of that epoch is gone.
  void lost(std::uint64_t epoch) noexcept;

 private:
  void move() noexcept;

  Patience patience_;
  Phase phase_ = Phase::kStale;
  std::uint64_t epoch_ = 0;
  bool packing_ = false;
  std::optional<std::uint64_t> failed_epoch_;
  int quiet_ = 0;          // looks since the last change
  int quick_changes_ = 0;  // in a row
  int needed_rest_ = Patience{}.rest;
};

}  // namespace torchpool
