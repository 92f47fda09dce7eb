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

// One predictor's share of the workers' time beside other predictors; all channels of the predictor have the same one.
// Guarded by the scheduler's mutex.
struct FairShare {
  explicit FairShare(double of_all = 1.0) : weight(of_all) {}
  const double weight;
  Duration deficit{};   // time that the predictor may still use; below zero: time that it owes
  Duration typical{};   // time of a step, so that a step can be charged before it ends
  double credited = 0;  // the round up to which the predictor was given time
};
using FairSharePtr = std::shared_ptr<FairShare>;

// A task, and all that is accounted for when it ends.
struct TaskRun {
  std::unique_ptr<Task> task;
  ChannelStatePtr channel;  // null for a task of no channel
  FairSharePtr share;       // the channel's, or the task's own
  TimePoint started{};      // when the batch started
  Lane lane = Lane::kCompute;
};

// Either a channel with waiting requests or a task that is ready to step.
struct Ready {
  ChannelStatePtr channel;
  TaskRun run;
  FairSharePtr share;
  Duration charged{};  // charged when the item was taken
};

// Rounds that have passed, for all rotations of a scheduler.
struct FairRounds {
  double passed = 0;
};

// Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round Robin", 1995, with these changes. The cost of a
// step is known when the step is over, so a predictor may go while its deficit is positive, and pays afterwards; the
// typical cost is charged at once, as many workers may take before the first step ends. Rounds in which no predictor
// may go are skipped. Rounds also pay off the debts of a predictor that has no work just now, but leave it no more than
// one round's time. A predictor that comes back after a pause therefore goes before predictors that have used the
// workers meanwhile: it waits for the running batches, not for the others' queues.
class Rotation {
 public:
  static constexpr Duration kQuantum = std::chrono::microseconds(50);  // a round's time at weight 1

  explicit Rotation(std::shared_ptr<FairRounds> rounds) : rounds_(std::move(rounds)) {}

  void push(Ready ready);
  bool empty() const noexcept { return items_.empty(); }
  std::size_t size() const noexcept { return items_.size(); }
  // The next item. Where `takers` workers take an item now, this worker prefers, among the `takers` items that they
  // will take, the one of `warm`: the predictor that it ran last, whose weights are in its caches. Requires: not empty.
  Ready take(const FairShare* warm, int takers);
  // Takes all items out.
  std::deque<Ready> take_all() noexcept { return std::exchange(items_, {}); }

  // Charges a step's real time, on all of its cores, in place of the time charged before.
  static void settle(FairShare& share, Duration charged, Duration took) noexcept;
  // Gives back a charge for a step that had nothing to do.
  static void refund(FairShare& share, Duration charged) noexcept { share.deficit += charged; }

 private:
  void credit(FairShare& share) const noexcept;
  void pass_rounds();

  std::deque<Ready> items_;
  std::shared_ptr<FairRounds> rounds_;
};

}  // namespace torchpool
