// Counters and histograms of one channel; written without locks, read while they move.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/batch/cost_model.h"
#include "core/sync/clock.h"

namespace torchpool {

// Powers of two: bucket i counts values in [2^(i-1), 2^i), bucket 0 counts zero.
class Histogram {
 public:
  static constexpr int kBuckets = 48;
  struct Snapshot {
    std::array<std::uint64_t, kBuckets> buckets{};
    std::uint64_t count = 0;
    std::uint64_t sum = 0;
    std::uint64_t max = 0;
    double mean() const noexcept;
    // Upper edge of the bucket that holds the q-th value, at most `max`.
    std::uint64_t quantile(double q) const noexcept;
  };
  void record(std::uint64_t value) noexcept;
  Snapshot snapshot() const noexcept;

 private:
  std::array<std::atomic<std::uint64_t>, kBuckets> buckets_{};
  std::atomic<std::uint64_t> sum_{0};
  std::atomic<std::uint64_t> max_{0};
};

// Every one of them only grows. accepted == succeeded + failed + cancelled + expired once every request is resolved, on
// every way out.
struct ChannelStats {
  std::atomic<std::uint64_t> accepted{0};
  std::atomic<std::uint64_t> succeeded{0};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> cancelled{0};
  std::atomic<std::uint64_t> expired{0};
  std::atomic<std::uint64_t> rejected{0};  // never accepted
  std::atomic<std::uint64_t> inlined{0};   // run on the caller's thread; also counted above
  // Requests that their own backend could not serve, and the handler's fallback ran.
  std::atomic<std::uint64_t> fell_back{0};
  // Failed attempts of the handler's work between batches, which makes later batches faster.
  std::atomic<std::uint64_t> upkeep_failed{0};
  Histogram queue_ns;  // admission to start
  Histogram batch_ns;  // start to resolved, per batch
  Histogram run_ns;    // the backend alone, per batch
  Histogram batch_rows;
  // Sums over batches: rows x length, and the positions that were asked for. The difference is padding that was
  // computed.
  std::atomic<std::uint64_t> cells{0};
  std::atomic<std::uint64_t> items{0};
  std::atomic<std::uint64_t> out_of_memory{0};  // batches and lone calls that memory could not hold
  std::atomic<std::uint64_t> verified_rows{0};  // compared with the same calls run alone, and equal
  std::atomic<std::uint64_t> refuted{0};        // times that batches were found to differ from the same calls run alone
  std::uint64_t resolved() const noexcept;
  void record_batch(const BatchSize& size) noexcept;
};

// Counts a call that runs on its caller's own thread: as accepted, and at its end as failed unless it has succeeded.
class InlineCount {
 public:
  explicit InlineCount(ChannelStats& stats) noexcept;
  ~InlineCount();
  InlineCount(const InlineCount&) = delete;
  InlineCount& operator=(const InlineCount&) = delete;
  void succeeded() noexcept { succeeded_ = true; }

 private:
  ChannelStats& stats_;
  bool succeeded_ = false;
};

}  // namespace torchpool
