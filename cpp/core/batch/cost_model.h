// What batches of each size cost, learned while they run.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "core/sync/clock.h"

namespace torchpool {

// The size of a batch as its cost depends on it.
struct BatchSize {
  std::int64_t rows = 1;
  std::int64_t length = 1;  // of its longest row, padding included; 1 where no dim varies
  std::int64_t items = 1;   // the sum over rows of each row's own length: what the callers asked for
  std::int64_t limit = 0;   // most rows that it was allowed, by choice of a size; 0: it was smaller for another reason
};

// A table of size classes, powers of two of rows and of length, for batches that ran on one core and on several. Class
// k holds sizes in (2^(k-1), 2^k]. Estimates are means that forget, with each sample clipped to between half and twice
// the mean so far: from the 16th sample on one batch that was interrupted moves it by a sixteenth at most, a lasting
// change is followed in tens of batches (a stochastic approximation with Huber's bounded influence: Huber, "Robust
// Estimation of a Location Parameter", 1964). Thread-safe without locks; updates that meet may lose one of the samples.
class CostModel {
 public:
  static constexpr int kRowClasses = 14;     // up to 8,192 rows
  static constexpr int kLengthClasses = 18;  // up to 131,072 positions

  // Samples below which a class says nothing of what is cheaper.
  static constexpr std::uint32_t kEnough = 4;

  struct Point {
    std::int64_t rows = 0;    // most of the class
    std::int64_t length = 0;  // most of the class
    bool one_core = true;
    std::uint32_t samples = 0;
    double ns_per_cell = 0;  // of rows x longest length, whatever the batch holds
    double ns_per_item = 0;  // of what was asked for, in batches that fill the class, or a limit in it; 0: none yet
  };

  void record(const BatchSize& size, Duration took, bool one_core) noexcept;
  // Time of a batch on one core; zero where nothing is known. Takes the class itself, else the next smaller one in
  // rows, else the next larger one, in the nearest length.
  Duration estimate(std::int64_t rows, std::int64_t length) const noexcept;
  // Whether all cores are better used by one batch of so many rows than by one of `share` rows on each; also true while
  // too few such batches have been seen to know.
  bool better_together(std::int64_t rows, std::int64_t share, std::int64_t length) const noexcept;
  // Time of the smallest batch that holds such a request, on as many cores as have proven fastest.
  Duration estimate_alone(std::int64_t rows, std::int64_t length) const noexcept;
  // Cost of an item, on one core, in batches that filled (to 7/8 at least) a limit of that class, or the class itself
  // (to 3/4) where they had no limit; 0 while there are fewer than so many samples.
  double ns_per_item(int row_class, int length_class, std::uint32_t samples = kEnough) const noexcept;
  std::vector<Point> points() const;

  // A batch of so many rows x length could not be held in memory: none may be more than half as large from now on.
  void record_out_of_memory(std::int64_t rows, std::int64_t length) noexcept;
  // Rows of that length that memory holds as far as is known; no bound: 2^40.
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

  std::array<Table, 2> tables_;  // on one core, on several
  std::atomic<std::int64_t> most_cells_{std::int64_t{1} << 40};
};

}  // namespace torchpool
