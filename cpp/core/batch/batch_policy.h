// How many rows a batch may have, and how long one may be waited for.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "core/batch/cost_model.h"
#include "core/queue/request.h"

namespace torchpool {

// What a policy may know of a queue. Times are on its clock.
struct QueueView {
  std::int64_t first_rows = 32;  // of a batch, until more is known
  std::int64_t max_rows = 1024;  // never more
  int workers = 1;
  std::int64_t waiting_rows = 0;
  std::int64_t length = 1;    // of the request that is to run first
  TimePoint oldest = kNever;  // arrival of the one that waits longest
  TimePoint newest = kNever;  // the last arrival
  Schedule schedule = Schedule::kGuided;
  std::int64_t chunk = 0;
  Duration arrival_gap{};  // mean time between the last arrivals; zero: unknown
};

struct RowLimit {
  std::int64_t rows = 1;  // most of the next batch
  bool learn = true;      // whether a batch that fills it is to be compared with those of other limits
};

// Used under its queue's lock.
class BatchPolicy {
 public:
  virtual ~BatchPolicy() = default;
  virtual RowLimit rows(const QueueView& queue) = 0;
  // Whether idle workers share what waits in equal parts.
  virtual bool shares() const noexcept { return true; }
  // What waits should not start before; no later than `now` where it may start. Does not depend on what rows() takes of
  // it: with many workers that is a part, which is always there.
  virtual TimePoint hold_until(const QueueView& queue, TimePoint now) = 0;
};

// Takes the smallest power of two of rows (or max_rows, where that is none) whose cost per item is within 2 % of the
// cheapest that is known, by size class of length, and keeps one up to 4 %, so that noise does not move it. The next
// larger one is tried while the last doubling made an item at
// least 1 % cheaper, enough waits for all workers, and the batch is expected to take no longer than kLongestTry; the
// next smaller one while it is as cheap. The neighbours of the chosen one are tried again in 1 of 32 batches, as the
// machine's load may have changed. As few batches are tries as the cost model needs to know, however many workers there
// are.
//
// While less waits than keeps all workers busy, a batch takes at most one and a half workers' parts of it, as OpenMP's
// guided schedule takes a part of what is left: others that end soon get theirs, and all end together. Simulated at 70
// % load, p99 is 10 % (2 workers) to 40 % (8) lower than with whatever waits; one part costs more in rows that run
// alone.
//
// Holds, where max_delay allows, while one more arrival is expected sooner than it saves: with n rows that would cost
// C(n), a row that comes later costs C(1), one that is waited for C(n+1) - C(n). Without a hold, batches form because
// workers are busy.
class LearnedPolicy final : public BatchPolicy {
 public:
  // `max_delay`: the longest hold, from the oldest arrival; zero: none ever.
  static constexpr Duration kLongestTry = std::chrono::milliseconds(50);

  explicit LearnedPolicy(std::shared_ptr<const CostModel> cost, Duration max_delay = {});

  RowLimit rows(const QueueView& queue) override;
  TimePoint hold_until(const QueueView& queue, TimePoint now) override;

 private:
  struct Choice {
    int rows_class = -1;  // not chosen yet
    std::uint32_t batches = 0;
    int tried = -1;           // the class tried last
    std::uint32_t tries = 0;  // of it, since it was begun to be tried
    std::uint32_t began = 0;  // in which batch
  };
  std::int64_t most_rows(const QueueView& queue) const noexcept;
  // Whether the last doubling that is known for certain, below that class, made nothing cheaper.
  bool is_flat_before(int rows_class, int length_class) const noexcept;
  // Rows for which nothing is waited, however many workers there are.
  std::int64_t full_rows(const QueueView& queue) const noexcept;
  // The class to use, by what is known.
  int choose(int current, int most, int length_class) const noexcept;
  // A class to be learned of, or -1.
  int to_try(const Choice& choice, const QueueView& queue) const noexcept;
  // Whether this batch is to be a try of that class.
  static bool may_try(Choice& choice, int rows_class) noexcept;

  const std::shared_ptr<const CostModel> cost_;
  const Duration max_delay_;
  std::array<Choice, CostModel::kLengthClasses> choices_{};
};

// Batches of a fixed size after a fixed delay, as dynamic batchers of model servers have them (Triton's
// max_queue_delay, Ray Serve's batch_wait_timeout_s). For comparison.
class FixedPolicy final : public BatchPolicy {
 public:
  FixedPolicy(std::int64_t rows, Duration delay) : rows_(rows), delay_(delay) {}
  RowLimit rows(const QueueView& /*queue*/) override { return {rows_, true}; }
  bool shares() const noexcept override { return false; }
  TimePoint hold_until(const QueueView& queue, TimePoint now) override;

 private:
  std::int64_t rows_;
  Duration delay_;
};

}  // namespace torchpool
