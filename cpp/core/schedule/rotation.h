// Whose turn it is: deficit round robin over predictors that share workers.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>

#include "core/schedule/task.h"
#include "core/sync/clock.h"

namespace torchpool {

struct ChannelState;
using ChannelStatePtr = std::shared_ptr<ChannelState>;

// What one predictor may use of the workers' time, beside the others; shared by all of its channels. Guarded by its
// scheduler's mutex.
struct FairShare {
  explicit FairShare(double of_all = 1.0) : weight(of_all) {}
  const double weight;
  Duration deficit{};   // time that it may still use; below zero: owes
  Duration typical{};   // of a step, so that it can be charged before it ends
  double credited = 0;  // the round up to which it was given time
};
using FairSharePtr = std::shared_ptr<FairShare>;

// A task with what its end has to account for.
struct TaskRun {
  std::unique_ptr<Task> task;
  ChannelStatePtr channel;  // null for a posted one
  FairSharePtr share;       // its channel's, or its own
  TimePoint started{};      // of its batch
  Lane lane = Lane::kCompute;
  bool posted = false;  // a task of its channel that has not begun
};

// Either a channel with waiting requests or a task that is ready to step.
struct Ready {
  ChannelStatePtr channel;
  TaskRun run;
  FairSharePtr share;
  Duration charged{};  // when it was taken
};

// Rounds that have passed, for all rotations of a scheduler.
struct FairRounds {
  double passed = 0;
};

// Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round Robin", 1995, with these changes: what a step
// costs is known when it is over, so a predictor may go while its deficit is positive and pays afterwards (what it
// typically pays is taken at once, as many workers may take before the first has ended). Rounds in which nobody may go
// are skipped. Rounds also pay off what a predictor owes that has no work just now, but leave it no more than one
// round's time: who comes after a pause goes before those who have used the workers meanwhile, and waits for the
// batches that run, not for what the others have queued.
class Rotation {
 public:
  static constexpr Duration kQuantum = std::chrono::microseconds(50);  // a round's time at weight 1

  explicit Rotation(std::shared_ptr<FairRounds> rounds) : rounds_(std::move(rounds)) {}

  void push(Ready ready);
  bool empty() const noexcept { return items_.empty(); }
  std::size_t size() const noexcept { return items_.size(); }
  // The next one. Where `takers` workers take an item now, this one takes, of those `takers` items, the one of `warm`,
  // its last: that predictor's weights are in its caches. Requires: not empty.
  Ready take(const FairShare* warm, int takers);
  // Takes all out.
  std::deque<Ready> take_all() noexcept { return std::exchange(items_, {}); }

  // A step of this share took so long on so many cores.
  static void settle(FairShare& share, Duration charged, Duration took) noexcept;
  // There was nothing to do.
  static void refund(FairShare& share, Duration charged) noexcept { share.deficit += charged; }

 private:
  void credit(FairShare& share) const noexcept;
  void pass_rounds();

  std::deque<Ready> items_;
  std::shared_ptr<FairRounds> rounds_;
};

}  // namespace torchpool
