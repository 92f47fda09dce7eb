// y = normalise(activate(x @ weight.T + bias) + residual), of fp32 matrices whose weights are packed once.
#pragma once

#include <cstdint>

#include "predict/kernels/isa.h"

namespace torchpool::kernels {

// Note [One order of summing]
// A row's result does not depend on the rows beside it. Each output has a lane of a register to itself. It is summed
// over k in rising order with fused products, in chunks of 384 k that are then added up, for every number of rows and
// for every split among threads. A lane is a lane in AVX2 and in AVX512, so that both give the same bits. Chunks also
// keep the rounding error of a long sum down.
//
// Packed weights lie in the order in which they are read: [chunk of k][panel of outputs][k][output]. A panel is as many
// outputs as two registers hold. After them lies the bias, or zeros. Every number of rows reads one sequential stream.

inline constexpr std::int64_t kChunk = 384;

enum class Activation : std::uint8_t { kNone, kRelu, kSilu, kGelu, kGeluTanh };
enum class Norm : std::uint8_t { kNone, kLayer, kRms };

// One product. Rows are `stride` floats apart; all else is contiguous.
struct LinearCall {
  const float* x = nullptr;  // [rows, k]
  std::int64_t x_stride = 0;
  const float* packed = nullptr;
  std::int64_t k = 0;
  std::int64_t n = 0;
  float* y = nullptr;  // [rows, n]; overlaps nothing of the other arguments
  std::int64_t y_stride = 0;
  Activation activation = Activation::kNone;
  const float* residual = nullptr;  // [rows, n], or null
  std::int64_t residual_stride = 0;
  Norm norm = Norm::kNone;
  const float* gain = nullptr;   // [n]; null: ones
  const float* shift = nullptr;  // [n]; null: zeros
  float eps = 0;
};

// From `begin` up to `end`, which is not part of it.
struct Span {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// The kernel of an instruction set. Which threads compute which rows and panels changes no bit.
struct LinearKernel {
  Isa isa;
  std::int64_t panel;  // outputs
  // Rows that it computes whole it normalises, too.
  void (*run)(const LinearCall& call, Span rows, Span panels);
  void (*normalise)(const LinearCall& call, Span rows);

  std::int64_t panels(std::int64_t n) const noexcept { return (n + panel - 1) / panel; }
  std::int64_t packed_size(std::int64_t n, std::int64_t k) const noexcept { return (k + 1) * panels(n) * panel; }
  // weight[output * output_stride + i * k_stride] -> packed. `bias` may be null.
  void pack(const float* weight, std::int64_t output_stride, std::int64_t k_stride, const float* bias, std::int64_t n,
            std::int64_t k, float* packed) const noexcept;
};

// Requires that the processor has it.
const LinearKernel& linear_kernel(Isa isa);

const LinearKernel& linear_kernel_portable();
#if defined(__x86_64__)
const LinearKernel& linear_kernel_avx2();
const LinearKernel& linear_kernel_avx512();
#endif

}  // namespace torchpool::kernels
