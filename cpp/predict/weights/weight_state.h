// Whether weights rest or move, and so whether a packed copy of them is worth making.
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
// Time is counted in looks, one a batch. Several workers look at once: each names the epoch in which it took the
// fingerprint that it compared with, and what it says of an earlier epoch is old news.
// Not thread-safe: its owner's mutex guards it.
class WeightState {
 public:
  enum class Phase : std::uint8_t {
    kPacked,  // the packed copy is that of the present weights
    kStale,   // it is not: serve from the live weights, and pack them behind the calls
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
  // Goes on by one at each change. The owner takes a new fingerprint whenever it moved.
  std::uint64_t epoch() const noexcept { return epoch_; }

  // One look at the weights, by comparison with the fingerprint of `epoch`.
  void looked(std::uint64_t epoch, bool changed) noexcept;
  // Somebody packs the weights of the present epoch, and has then done so. Weights that changed meanwhile leave the
  // copy useless: the phase says whether to try again.
  void start_packing() noexcept { packing_ = true; }
  void packed(std::uint64_t epoch) noexcept;
  // Not tried again before the weights change: what the same weights failed with would fail again, at every batch.
  void packing_failed(std::uint64_t epoch) noexcept;
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
