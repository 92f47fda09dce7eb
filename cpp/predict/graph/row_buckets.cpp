#include "predict/graph/row_buckets.h"

#include <ATen/ops/empty.h>

#include <bit>
#include <vector>

namespace torchpool::graph {

std::int64_t RowBuckets::rounded_up(std::int64_t rows) noexcept {
  if (rows <= 1) return rows;
  if (rows <= 16) return rows <= 8 ? 8 : 16;
  // Octave n: from 2^n + 1 to 2^(n + 1).
  const int octave = std::bit_width(static_cast<std::uint64_t>(rows - 1)) - 1;
  const std::int64_t step = std::int64_t{1} << (octave - (octave < 6 ? 2 : 3));
  return (rows + step - 1) / step * step;
}

std::int64_t RowBuckets::bucket(std::int64_t rows) noexcept {
  const std::int64_t rounded = rounded_up(rows);
  if (rounded == rows) return rows;
  for (std::atomic<std::int64_t>& place : exact_) {
    std::int64_t known = place.load(std::memory_order_relaxed);
    if (known == 0 && place.compare_exchange_strong(known, rows, std::memory_order_relaxed)) return rows;
    if (known == rows) return rows;
  }
  return rounded;
}

at::Tensor with_rows(const at::Tensor& input, std::int64_t rows) {
  const std::int64_t width = input.size(-1);
  const std::int64_t own = input.numel() / width;
  if (input.is_contiguous()) {
    // The result of another layer that was computed with as many rows has room for them.
    const auto end = static_cast<std::size_t>(input.storage_offset() + rows * width) * input.element_size();
    if (end <= input.storage().nbytes()) return input.as_strided({rows, width}, {width, 1});
  }
  at::Tensor matrix = at::empty({rows, width}, input.options());
  matrix.narrow(0, 0, own).copy_(input.reshape({own, width}));
  matrix.narrow(0, own, rows - own).zero_();
  return matrix;
}

at::Tensor without_added_rows(const at::Tensor& result, at::IntArrayRef input_sizes) {
  std::vector<std::int64_t> sizes = input_sizes.vec();
  const std::int64_t rows = c10::multiply_integers(sizes.begin(), sizes.end() - 1);
  sizes.back() = result.size(-1);
  return result.narrow(0, 0, rows).view(sizes);
}

}  // namespace torchpool::graph
