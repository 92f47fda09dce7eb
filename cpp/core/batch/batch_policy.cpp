#include "core/batch/batch_policy.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace torchpool {
namespace {

constexpr double kAsCheap = 1.02;       // of the cheapest: the smallest that is within it is taken
constexpr double kStillAsCheap = 1.04;  // the one in use is left for a smaller or larger one only beyond this
constexpr double kSmallerPays = 1.005;
constexpr double kWorthGrowing = 0.99;  // of what an item cost before the last doubling
constexpr double kFlat = 0.97;          // the same, where growing is not worth it for certain
constexpr std::uint32_t kSure = 16;
constexpr double kGuidedParts = 1.5;     // a worker's equal parts of what waits that a batch may take
constexpr std::uint32_t kTryAgain = 32;  // batches between two looks at a neighbour

std::int64_t rows_of(int rows_class, std::int64_t most) noexcept {
  return std::min(std::int64_t{1} << rows_class, most);
}

}  // namespace

LearnedPolicy::LearnedPolicy(std::shared_ptr<const CostModel> cost, Duration max_delay)
    : cost_(std::move(cost)), max_delay_(max_delay) {}

std::int64_t LearnedPolicy::most_rows(const QueueView& queue) const noexcept {
  return std::clamp<std::int64_t>(queue.max_rows, 1, cost_->rows_in_memory(queue.length));
}

bool LearnedPolicy::is_flat_before(int rows_class, int length_class) const noexcept {
  for (int rows = rows_class - 1; rows > 0; --rows) {
    const double cost = cost_->ns_per_item(rows, length_class, kSure);
    const double before = cost_->ns_per_item(rows - 1, length_class, kSure);
    if (cost > 0 && before > 0) return cost > kFlat * before;
  }
  return false;
}

int LearnedPolicy::choose(int current, int most, int length_class) const noexcept {
  double least = 0;
  for (int rows = 0; rows <= most; ++rows) {
    const double cost = cost_->ns_per_item(rows, length_class);
    if (cost > 0 && (least == 0 || cost < least)) least = cost;
  }
  const double now = cost_->ns_per_item(current, length_class);
  // That smaller ones are known says nothing of it, unless cost has clearly stopped to fall before.
  if (now == 0 && !is_flat_before(current, length_class)) return current;
  for (int rows = 0; rows <= most; ++rows) {
    const double cost = cost_->ns_per_item(rows, length_class);
    if (cost == 0) continue;
    // A change needs a clear reason, else noise would move it back and forth.
    if (rows < current && now > 0 && now <= kStillAsCheap * least && cost > kSmallerPays * least) continue;
    if (rows == current && cost <= kStillAsCheap * least) return rows;
    if (cost <= kAsCheap * least) return rows;
  }
  return current;
}

int LearnedPolicy::to_try(const Choice& choice, const QueueView& queue) const noexcept {
  const int length = CostModel::length_class(queue.length);
  const int chosen = choice.rows_class;
  const std::int64_t most_rows = this->most_rows(queue);
  const int most = CostModel::row_class(most_rows);
  const auto cost = [&](int rows) { return cost_->ns_per_item(rows, length); };
  if (cost(chosen) == 0) return -1;  // first what is in use
  const auto may_grow = [&](int rows) {
    const std::int64_t wanted = rows_of(rows, most_rows);
    return rows <= most && queue.waiting_rows >= wanted * queue.workers &&
           cost_->estimate(wanted, queue.length) <= kLongestTry;
  };
  int largest = chosen;
  while (largest < most && cost(largest + 1) > 0) ++largest;
  const double before = largest > 0 ? cost(largest - 1) : 0;
  if ((before == 0 || cost(largest) < kWorthGrowing * before) && may_grow(largest + 1)) return largest + 1;
  int smallest = chosen;
  while (smallest > 0 && cost(smallest - 1) > 0) --smallest;
  if (smallest > 0 && cost(smallest) <= kAsCheap * cost(chosen)) return smallest - 1;
  const std::uint32_t turn = choice.batches / kTryAgain;
  if (choice.batches % kTryAgain != 0) return -1;
  if (turn % 2 == 0) return chosen - 1;
  return may_grow(chosen + 1) ? chosen + 1 : -1;
}

bool LearnedPolicy::may_try(Choice& choice, int rows_class) noexcept {
  if (rows_class < 0) return false;
  const bool anew = rows_class != choice.tried || choice.batches - choice.began > kTryAgain;
  if (anew) {
    choice.tried = rows_class;
    choice.tries = 0;
    choice.began = choice.batches;
  }
  return choice.tries++ < CostModel::kEnough;
}

RowLimit LearnedPolicy::rows(const QueueView& queue) {
  const int length_class = CostModel::length_class(queue.length);
  Choice& choice = choices_[static_cast<std::size_t>(length_class)];
  const std::int64_t most_rows = this->most_rows(queue);
  const int most = CostModel::row_class(most_rows);
  if (choice.rows_class < 0) choice.rows_class = CostModel::row_class(queue.first_rows);
  choice.rows_class = choose(std::min(choice.rows_class, most), most, length_class);
  const std::int64_t chosen = rows_of(choice.rows_class, most_rows);
  if (queue.schedule == Schedule::kDynamic && queue.chunk > 0) return {std::min(queue.chunk, most_rows), false};
  if (queue.schedule == Schedule::kGuided && queue.chunk > chosen) return {std::min(queue.chunk, most_rows), false};
  auto guided = static_cast<std::int64_t>(
      std::ceil(kGuidedParts * static_cast<double>(queue.waiting_rows) / std::max(1, queue.workers)));
  guided = std::min(std::max(guided, queue.chunk), most_rows);
  if (queue.schedule == Schedule::kGuided && guided < chosen) return {std::max<std::int64_t>(1, guided), false};
  if (queue.waiting_rows < chosen) return {chosen, true};
  ++choice.batches;
  const int tried = to_try(choice, queue);
  return {may_try(choice, tried) ? rows_of(tried, most_rows) : chosen, true};
}

std::int64_t LearnedPolicy::full_rows(const QueueView& queue) const noexcept {
  if (queue.schedule == Schedule::kDynamic && queue.chunk > 0) return std::min(queue.chunk, most_rows(queue));
  const Choice& choice = choices_[static_cast<std::size_t>(CostModel::length_class(queue.length))];
  const int chosen = choice.rows_class < 0 ? CostModel::row_class(queue.first_rows) : choice.rows_class;
  return std::min(std::max(rows_of(chosen, most_rows(queue)), queue.chunk), most_rows(queue));
}

TimePoint LearnedPolicy::hold_until(const QueueView& queue, TimePoint now) {
  if (max_delay_ <= Duration::zero() || queue.arrival_gap <= Duration::zero()) return now;
  const std::int64_t waiting = queue.waiting_rows;
  if (waiting >= full_rows(queue)) return now;
  const Duration together = cost_->estimate(waiting + 1, queue.length);
  const Duration apart = cost_->estimate(waiting, queue.length) + cost_->estimate(1, queue.length);
  if (apart - together < queue.arrival_gap) return now;
  const TimePoint last = queue.oldest + max_delay_;
  // When the next one does not come in twice its time, the rate has changed: then it starts.
  const TimePoint expected = queue.newest == kNever ? now : queue.newest;
  return std::min(last, expected + 2 * queue.arrival_gap);
}

}  // namespace torchpool
