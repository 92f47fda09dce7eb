// What batches of each size cost, learned while they run.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "core/sync/clock.h"

namespace torchpool {

// The size of a batch: all that its cost depends on.
struct BatchSize {
  std::int64_t rows = 1;
  std::int64_t length = 1;  // of the longest row, or the mean where padding is free; 1 where no dim varies
  std::int64_t items = 1;   // sum of the rows' own lengths: what the callers asked for
  std::int64_t limit = 0;   // most rows that the policy allowed; 0: the batch was smaller for another reason
};

// Of rows that have so many positions between them.
constexpr std::int64_t mean_length(std::int64_t items, std::int64_t rows) noexcept {
  return (items + rows - 1) / rows;
}

// A table of size classes, powers of two of rows and of length, for batches that ran on one core and on several. Class
// k holds sizes in (2^(k-1), 2^k]. Estimates are means that forget. Each sample is clipped to between half and twice
// the mean so far. From the 16th sample on one interrupted batch moves a mean by a sixteenth at most; a lasting change
// is followed in tens of batches (a stochastic approximation with Huber's bounded influence: Huber, "Robust Estimation
// of a Location Parameter", 1964). Thread-safe without locks; of two updates at the same moment one may be lost.
class CostModel {
 public:
  static constexpr int kRowClasses = 14;     // up to 8,192 rows
  static constexpr int kLengthClasses = 18;  // up to 131,072 positions

  // With fewer samples than this a class is not compared with others.
  static constexpr std::uint32_t kEnough = 4;

  struct Point {
    std::int64_t rows = 0;    // upper edge of the class
    std::int64_t length = 0;  // upper edge of the class
    bool one_core = true;
    std::uint32_t samples = 0;
    double ns_per_cell = 0;  // of rows x length, with the padding that is computed
    double ns_per_item = 0;  // of what was asked for, in batches that fill the class or a limit in it; 0: none yet
  };

  void record(const BatchSize& size, Duration took, bool one_core) noexcept;
  // Time of a batch on one core; zero where nothing is known. Reads the batch's own class, else the next smaller known
  // class of rows, else the next larger one, in the nearest known length.
  Duration estimate(std::int64_t rows, std::int64_t length) const noexcept;
  // Whether a batch runs faster on all cores than on one: below some hundred microseconds it mostly does not. What is
  // not known yet is found out by a few batches each way, the other way is looked at again now and then.
  bool gains_by_cores(std::int64_t rows, std::int64_t length) const noexcept;
  // Whether one batch of `rows` on all cores is better than batches of `share` rows, one a core. Also true while too
  // few batches on all cores have been seen, unless shares are too short to be divided.
  bool better_together(std::int64_t rows, std::int64_t share, std::int64_t length) const noexcept;
  // Time of a batch of this request alone, on one core or on several, whichever has proven faster.
  Duration estimate_alone(std::int64_t rows, std::int64_t length) const noexcept;
  // Time of a batch of this size on one core; zero while too few have been seen.
  Duration measured_on_one_core(std::int64_t rows, std::int64_t length) const noexcept;
  // Cost of an item on one core, from batches that filled their limit to 7/8 at least, or the class to 3/4 where they
  // had no limit. 0 while there are fewer than `samples` such batches.
  double ns_per_item(int row_class, int length_class, std::uint32_t samples = kEnough) const noexcept;
  std::vector<Point> points() const;

  // Memory could not hold a batch of rows x length. From now on no batch may be more than half as large, until so many
  // of nearly that size went well that one of twice the size is worth another try; the number doubles with each
  // failure.
  void record_out_of_memory(std::int64_t rows, std::int64_t length) noexcept;
  // Rows of this length that memory holds, as far as is known; 2^40 where no bound is known.
  std::int64_t rows_in_memory(std::int64_t length) const noexcept;

  static int row_class(std::int64_t rows) noexcept;
  static int length_class(std::int64_t length) noexcept;

 private:
  struct Mean {
    std::atomic<std::uint32_t> samples{0};
    std::atomic<float> value{0};
    void record(float sample) noexcept;
  };
  struct Class {
    Mean per_cell;
    Mean per_item;
  };
  using Row = std::array<Class, kLengthClasses>;
  using Table = std::array<Row, kRowClasses>;

  double ns_per_cell(const Table& table, int row_class, int length_class) const noexcept;
  // Of the very class; zero while too few have been seen.
  static Duration measured(const Table& table, std::int64_t rows, std::int64_t length) noexcept;

  std::array<Table, 2> tables_;  // on one core, on several
  void record_fitting(std::int64_t cells) noexcept;

  static constexpr std::int64_t kNoBound = std::int64_t{1} << 40;
  static constexpr std::uint32_t kPatience = 64;  // batches
  static constexpr std::uint32_t kMostPatience = kPatience << 8;
  std::atomic<std::int64_t> most_cells_{kNoBound};
  std::atomic<std::uint32_t> patience_{kPatience};
  std::atomic<std::uint32_t> fitting_{0};  // batches of nearly the bound's size, since the bound changed
};

}  // namespace torchpool
