// How many rows a batch may have, and how long a batch may wait for more.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>

#include "core/batch/cost_model.h"
#include "core/queue/request.h"

namespace torchpool {

// What a policy may know of a queue. Times are on the queue's clock.
struct QueueView {
  std::int64_t first_rows = 32;  // most rows of a batch, until more is known
  std::int64_t max_rows = 1024;  // most rows of a batch, always
  int workers = 1;
  std::int64_t waiting_rows = 0;
  std::int64_t length = 1;    // of the request that is to run first
  TimePoint oldest = kNever;  // arrival of the request that waits longest
  TimePoint newest = kNever;  // the last arrival
  Schedule schedule = Schedule::kGuided;
  std::int64_t chunk = 0;
  Duration arrival_gap{};  // mean time between recent arrivals; zero: unknown
};

struct RowLimit {
  std::int64_t rows = 1;  // most of the next batch
  bool learn = true;      // whether a batch that fills the limit is compared with batches of other limits
};

// Used under its queue's lock.
class BatchPolicy {
 public:
  virtual ~BatchPolicy() = default;
  virtual RowLimit rows(const QueueView& queue) = 0;
  // Rows of a batch that is as large as it pays, however many workers share what waits.
  virtual std::int64_t full_rows(const QueueView& queue) const noexcept { return queue.max_rows; }
  // Whether idle workers share what waits in equal parts.
  virtual bool shares() const noexcept { return true; }
  // The time before which waiting requests should not start; no later than `now` where they may start. Does not depend
  // on the result of rows(): with many workers rows() gives a part of what waits, and a part is always full.
  virtual TimePoint hold_until(const QueueView& queue, TimePoint now) = 0;
};

// Makes the policy of a queue whose batches cost what `cost` has learned.
using PolicyMaker = std::function<std::unique_ptr<BatchPolicy>(const std::shared_ptr<const CostModel>& cost)>;

// Chooses a size for each size class of length: the smallest power of two of rows (or max_rows, where that is no power
// of two) whose cost per item is within 2 % of the cheapest known size. The chosen size stays while its cost is within
// 4 %, so that noise does not move the choice. The next larger size is tried while the last doubling made an item at
// least 1 % cheaper, enough waits for all workers, and the batch is expected to take no longer than kLongestTry. The
// next smaller size is tried while it is as cheap. Later 1 of 32 batches tries a neighbour of the chosen size again,
// since the machine's load may have changed. Only as many batches are tries as the cost model needs, however many
// workers there are.
//
// While too little waits to keep all workers busy, a batch takes at most one and a half workers' parts of the waiting
// rows, as OpenMP's guided schedule takes a part of the rest: workers that end soon get their parts, and all end
// together. Simulated at 70 % load, p99 is 10 % (2 workers) to 40 % (8 workers) lower than with batches of all that
// waits. A limit of one part instead of one and a half costs more, in rows that run alone.
//
// Holds a batch, where max_delay allows, while the expected wait for one more arrival is shorter than the time that the
// arrival saves. Let C(n) be the cost of n rows: a row that comes later costs C(1), a row that is waited for costs
// C(n+1) - C(n). Without holds, batches form because workers are busy.
class LearnedPolicy final : public BatchPolicy {
 public:
  // `max_delay`: the longest hold, from the oldest arrival; zero: no holds.
  static constexpr Duration kLongestTry = std::chrono::milliseconds(50);

  explicit LearnedPolicy(std::shared_ptr<const CostModel> cost, Duration max_delay = {});

  RowLimit rows(const QueueView& queue) override;
  std::int64_t full_rows(const QueueView& queue) const noexcept override;
  TimePoint hold_until(const QueueView& queue, TimePoint now) override;

 private:
  struct Choice {
    int rows_class = -1;  // not chosen yet
    std::uint32_t batches = 0;
    int tried = -1;           // the class tried last
    std::uint32_t tries = 0;  // batches of `tried`, since its first
    std::uint32_t began = 0;  // the batch in which `tried` was first
  };
  std::int64_t most_rows(const QueueView& queue) const noexcept;
  // Whether the last doubling with enough samples, below `rows_class`, made items no cheaper.
  bool is_flat_before(int rows_class, int length_class) const noexcept;
  // The class to use, by the costs known so far.
  int choose(int current, int most, int length_class) const noexcept;
  // The class to try next, or -1.
  int to_try(const Choice& choice, const QueueView& queue) const noexcept;
  // Whether this batch is to try `rows_class`.
  static bool may_try(Choice& choice, int rows_class) noexcept;

  const std::shared_ptr<const CostModel> cost_;
  const Duration max_delay_;
  std::array<Choice, CostModel::kLengthClasses> choices_{};
};

}  // namespace torchpool
