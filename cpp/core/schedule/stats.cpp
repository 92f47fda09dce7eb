#include "core/schedule/stats.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace torchpool {

void Histogram::record(std::uint64_t value) noexcept {
  const int bucket = std::min(static_cast<int>(std::bit_width(value)), kBuckets - 1);
  buckets_[static_cast<std::size_t>(bucket)].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
  std::uint64_t seen = max_.load(std::memory_order_relaxed);
  while (seen < value && !max_.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

Histogram::Snapshot Histogram::snapshot() const noexcept {
  Snapshot result;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    result.buckets[i] = buckets_[i].load(std::memory_order_relaxed);
    result.count += result.buckets[i];
  }
  result.sum = sum_.load(std::memory_order_relaxed);
  result.max = max_.load(std::memory_order_relaxed);
  return result;
}

double Histogram::Snapshot::mean() const noexcept {
  return count == 0 ? 0.0 : static_cast<double>(sum) / static_cast<double>(count);
}

std::uint64_t Histogram::Snapshot::quantile(double q) const noexcept {
  if (count == 0) return 0;
  const double wanted = std::ceil(std::clamp(q, 0.0, 1.0) * static_cast<double>(count));
  const auto rank = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(wanted));
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    below += buckets[i];
    if (below < rank) continue;
    if (i == 0) return 0;
    return i + 1 == buckets.size() ? max : std::min(std::uint64_t{1} << i, max);
  }
  return max;
}

void ChannelStats::record_batch(const BatchSize& size) noexcept {
  batch_rows.record(static_cast<std::uint64_t>(size.rows));
  cells.fetch_add(static_cast<std::uint64_t>(size.rows * size.length), std::memory_order_relaxed);
  items.fetch_add(static_cast<std::uint64_t>(size.items), std::memory_order_relaxed);
}

std::uint64_t ChannelStats::resolved() const noexcept {
  return succeeded.load(std::memory_order_relaxed) + failed.load(std::memory_order_relaxed) +
         cancelled.load(std::memory_order_relaxed) + expired.load(std::memory_order_relaxed);
}

InlineCount::InlineCount(ChannelStats& stats) noexcept : stats_(stats) {
  stats_.accepted.fetch_add(1, std::memory_order_relaxed);
  stats_.inlined.fetch_add(1, std::memory_order_relaxed);
}

InlineCount::~InlineCount() {
  (succeeded_ ? stats_.succeeded : stats_.failed).fetch_add(1, std::memory_order_relaxed);
}

}  // namespace torchpool
