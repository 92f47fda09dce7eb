// Limits how many different matrix sizes a packed linear layer is computed for.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <atomic>
#include <cstdint>

namespace torchpool::graph {

// Note [Rows in buckets]
// oneDNN compiles code for each number of rows that a linear layer meets: 0.6 to 0.8 ms and 0.5 MB each, kept in two
// caches of 1,024. Batches of texts meet hundreds of numbers, for each of the model's layers: MiniLM called with random
// lengths grew by 290 MB in 2,000 calls. The caches' sizes can only be set by environment variables that concern the
// whole process. So a program computes with few numbers of rows. The first 4 numbers that it meets are used as they
// are: where sizes do not vary, there are no others. Further numbers are rounded up. Beyond 64 rows rounding adds 4 %
// on average; below, reading the weights dominates.
class RowBuckets {
 public:
  // The number of rows to compute with, at least `rows`. Thread-safe.
  std::int64_t bucket(std::int64_t rows) noexcept;
  // Rounds up to 1, 8 or 16; then to one of four sizes between powers of two, and beyond 64 to one of eight.
  static std::int64_t rounded_up(std::int64_t rows) noexcept;

 private:
  std::array<std::atomic<std::int64_t>, 4> exact_{};  // 0: free
};

// The input of a linear layer as a matrix of `rows` rows. The added rows hold zeros or whatever lies in memory there.
at::Tensor with_rows(const at::Tensor& input, std::int64_t rows);
// The result of a linear layer for an input of `input_sizes`, from its result for the matrix with added rows.
at::Tensor without_added_rows(const at::Tensor& result, at::IntArrayRef input_sizes);

}  // namespace torchpool::graph
