#include "core/batch/cost_model.h"

#include <algorithm>
#include <bit>

namespace torchpool {
namespace {

int ceil_log2(std::int64_t value) noexcept {
  return value <= 1 ? 0 : static_cast<int>(std::bit_width(static_cast<std::uint64_t>(value - 1)));
}

// A parallel region costs 2 us where one thread of the process opens all of them, and 60 to 100 us where several do:
// libgomp then lets their helpers sleep between two regions.
constexpr Duration kTooShort = std::chrono::microseconds(30);

}  // namespace

int CostModel::row_class(std::int64_t rows) noexcept {
  return std::min(ceil_log2(rows), kRowClasses - 1);
}

int CostModel::length_class(std::int64_t length) noexcept {
  return std::min(ceil_log2(length), kLengthClasses - 1);
}

void CostModel::Mean::record(float sample) noexcept {
  const std::uint32_t seen = samples.load(std::memory_order_relaxed);
  const float mean = value.load(std::memory_order_relaxed);
  constexpr std::uint32_t kMemory = 16;
  float next = sample;
  // The first ones are cold (memory, kernels made for the shape) and may be many times the rest.
  const bool still_cold = seen < kMemory / 2 && sample < mean / 2;
  if (seen > 0 && !still_cold) {
    const float gain = 1.0F / static_cast<float>(std::min(seen + 1, kMemory));
    next = mean + gain * (std::clamp(sample, mean / 2, mean * 2) - mean);
  }
  value.store(next, std::memory_order_relaxed);
  if (seen < UINT32_MAX) samples.store(seen + 1, std::memory_order_relaxed);
}

void CostModel::record(const BatchSize& size, Duration took, bool one_core) noexcept {
  const std::int64_t cells = std::max<std::int64_t>(1, size.rows) * std::max<std::int64_t>(1, size.length);
  record_fitting(cells);
  Table& table = tables_[one_core ? 0 : 1];
  const auto length = static_cast<std::size_t>(length_class(size.length));
  const auto ns = static_cast<float>(std::max<Duration::rep>(1, took.count()));
  table[static_cast<std::size_t>(row_class(size.rows))][length].per_cell.record(ns / static_cast<float>(cells));
  // A batch that fills a limit says what that limit costs, and one that happens to be nearly as large as its class what
  // that class does: so the small ones are known without being tried, from times when little waits.
  const bool fills_limit = size.limit > 0 && 8 * size.rows >= 7 * size.limit;
  const int compared = row_class(fills_limit ? size.limit : size.rows);
  if (!fills_limit && 4 * size.rows < 3 * (std::int64_t{1} << compared)) return;
  Class& limited = table[static_cast<std::size_t>(compared)][length];
  limited.per_item.record(ns / static_cast<float>(std::max<std::int64_t>(1, size.items)));
}

double CostModel::ns_per_cell(const Table& table, int row_class, int length_class) const noexcept {
  const auto look = [&](int rows, int length) -> double {
    const Mean& mean = table[static_cast<std::size_t>(rows)][static_cast<std::size_t>(length)].per_cell;
    return mean.samples.load(std::memory_order_relaxed) == 0 ? 0.0 : mean.value.load(std::memory_order_relaxed);
  };
  for (int away = 0; away < kLengthClasses; ++away) {
    for (const int length : {length_class + away, length_class - away}) {
      if (length < 0 || length >= kLengthClasses) continue;
      for (int rows = row_class; rows >= 0; --rows) {
        if (const double found = look(rows, length); found > 0) return found;
      }
      for (int rows = row_class + 1; rows < kRowClasses; ++rows) {
        if (const double found = look(rows, length); found > 0) return found;
      }
    }
  }
  return 0;
}

Duration CostModel::estimate(std::int64_t rows, std::int64_t length) const noexcept {
  const double cells = static_cast<double>(std::max<std::int64_t>(1, rows) * std::max<std::int64_t>(1, length));
  double per_cell = ns_per_cell(tables_[0], row_class(rows), length_class(length));
  // Batches that had several cores say at least what one core would not do faster.
  if (per_cell == 0) per_cell = ns_per_cell(tables_[1], row_class(rows), length_class(length));
  return Duration(static_cast<Duration::rep>(per_cell * cells));
}

Duration CostModel::measured(const Table& table, std::int64_t rows, std::int64_t length) noexcept {
  const auto& mean =
      table[static_cast<std::size_t>(row_class(rows))][static_cast<std::size_t>(length_class(length))].per_cell;
  if (mean.samples.load(std::memory_order_relaxed) < kEnough) return Duration::zero();
  const auto cells = static_cast<double>(std::max<std::int64_t>(1, rows) * std::max<std::int64_t>(1, length));
  return Duration(static_cast<Duration::rep>(mean.value.load(std::memory_order_relaxed) * cells));
}

Duration CostModel::measured_on_one_core(std::int64_t rows, std::int64_t length) const noexcept {
  return measured(tables_[0], rows, length);
}

bool CostModel::gains_by_cores(std::int64_t rows, std::int64_t length) const noexcept {
  constexpr Duration kLong = std::chrono::milliseconds(1);  // gains, without a try on one core
  constexpr std::uint32_t kLookAgain = 256;                 // batches
  const Duration one = measured_on_one_core(rows, length);
  const Duration all = measured(tables_[1], rows, length);
  if (one == Duration::zero()) return all == Duration::zero() || all > kLong;
  if (all == Duration::zero()) return one > kTooShort;
  const auto class_of_rows = static_cast<std::size_t>(row_class(rows));
  const auto class_of_length = static_cast<std::size_t>(length_class(length));
  const bool gains = all < one;
  std::uint32_t seen = 0;
  for (const Table& table : tables_) {
    seen += table[class_of_rows][class_of_length].per_cell.samples.load(std::memory_order_relaxed);
  }
  return seen % kLookAgain == 0 ? !gains : gains;
}

bool CostModel::better_together(std::int64_t rows, std::int64_t share, std::int64_t length) const noexcept {
  const auto at = [&](const Table& table, std::int64_t of) -> const Mean& {
    return table[static_cast<std::size_t>(row_class(of))][static_cast<std::size_t>(length_class(length))].per_cell;
  };
  const Mean& together = at(tables_[1], rows);
  const Mean& apart = at(tables_[0], share);
  if (apart.samples.load(std::memory_order_relaxed) < kEnough) return false;
  if (together.samples.load(std::memory_order_relaxed) < kEnough)
    return measured(tables_[0], share, length) > kTooShort;
  return together.value.load(std::memory_order_relaxed) * static_cast<float>(rows) <
         apart.value.load(std::memory_order_relaxed) * static_cast<float>(share);
}

Duration CostModel::estimate_alone(std::int64_t rows, std::int64_t length) const noexcept {
  Duration least{};
  for (const Table& table : tables_) {
    const Duration found = measured(table, rows, length);
    if (found > Duration::zero()) least = least == Duration::zero() ? found : std::min(least, found);
  }
  return least;
}

double CostModel::ns_per_item(int row_class, int length_class, std::uint32_t samples) const noexcept {
  if (row_class < 0 || row_class >= kRowClasses || length_class < 0 || length_class >= kLengthClasses) return 0;
  const Mean& mean = tables_[0][static_cast<std::size_t>(row_class)][static_cast<std::size_t>(length_class)].per_item;
  return mean.samples.load(std::memory_order_relaxed) < samples ? 0.0 : mean.value.load(std::memory_order_relaxed);
}

std::vector<CostModel::Point> CostModel::points() const {
  std::vector<Point> points;
  for (std::size_t table = 0; table < tables_.size(); ++table) {
    for (std::size_t rows = 0; rows < kRowClasses; ++rows) {
      for (std::size_t length = 0; length < kLengthClasses; ++length) {
        const Class& found = tables_[table][rows][length];
        const std::uint32_t samples = found.per_cell.samples.load(std::memory_order_relaxed);
        if (samples == 0) continue;
        points.push_back({std::int64_t{1} << rows, std::int64_t{1} << length, table == 0, samples,
                          found.per_cell.value.load(std::memory_order_relaxed),
                          found.per_item.value.load(std::memory_order_relaxed)});
      }
    }
  }
  return points;
}

void CostModel::record_out_of_memory(std::int64_t rows, std::int64_t length) noexcept {
  const std::int64_t bound = std::max<std::int64_t>(1, rows * std::max<std::int64_t>(1, length) / 2);
  std::int64_t known = most_cells_.load(std::memory_order_relaxed);
  while (bound < known && !most_cells_.compare_exchange_weak(known, bound, std::memory_order_relaxed)) {
  }
  if (bound >= known) return;  // by a batch from before the bound
  if (known != kNoBound) {
    patience_.store(std::min(patience_.load(std::memory_order_relaxed) * 2, kMostPatience), std::memory_order_relaxed);
  }
  fitting_.store(0, std::memory_order_relaxed);
}

void CostModel::record_fitting(std::int64_t cells) noexcept {
  std::int64_t bound = most_cells_.load(std::memory_order_relaxed);
  if (bound == kNoBound || 4 * cells < 3 * bound) return;
  if (fitting_.fetch_add(1, std::memory_order_relaxed) + 1 < patience_.load(std::memory_order_relaxed)) return;
  fitting_.store(0, std::memory_order_relaxed);
  most_cells_.compare_exchange_strong(bound, std::min(bound * 2, kNoBound), std::memory_order_relaxed);
}

std::int64_t CostModel::rows_in_memory(std::int64_t length) const noexcept {
  return std::max<std::int64_t>(1, most_cells_.load(std::memory_order_relaxed) / std::max<std::int64_t>(1, length));
}

}  // namespace torchpool
