// y = normalise(activate(x @ weight.T + bias) + residual), in fp32, with weights that are packed once.
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

// Note [Stored in less, computed in fp32]
// Weights may be stored in fewer bits than fp32, since few rows wait for memory, not for products. They become fp32
// again in registers, each by itself, and the product is that of fp32 over these: bits depend neither on how many rows
// share a pass nor on the instruction set. int8 has a scale for each output and each kScaled k, so that one large
// weight coarsens only its neighbours; a panel's scales lie before its weights. Of bf16 a word of 32 bits holds outputs
// i and i + lanes of a panel, of which one is got by a shift and the other by a mask. Where several tiles of rows pass
// a panel it is widened once, into a buffer, for all of them: from as many on as that is faster.

inline constexpr std::int64_t kChunk = 384;
inline constexpr std::int64_t kScaled = 64;  // divides kChunk

enum class Storage : std::uint8_t { kFp32, kBf16, kFp16, kInt8 };

enum class Activation : std::uint8_t { kNone, kRelu, kSilu, kGelu, kGeluTanh };
enum class Norm : std::uint8_t { kNone, kLayer, kRms };

// One product. Rows are `stride` floats apart; all else is contiguous.
struct LinearCall {
  const float* x = nullptr;  // [rows, k]
  std::int64_t x_stride = 0;
  const void* packed = nullptr;
  Storage storage = Storage::kFp32;  // of the packed weights
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
  // In bytes; a multiple of four.
  std::int64_t packed_size(std::int64_t n, std::int64_t k, Storage storage) const noexcept;
  // weight[output * output_stride + i * k_stride] -> packed. `bias` may be null. What is not finite makes all of its
  // group NaN in int8.
  void pack(const float* weight, std::int64_t output_stride, std::int64_t k_stride, const float* bias, std::int64_t n,
            std::int64_t k, Storage storage, void* packed) const noexcept;
};

// Of one weight.
constexpr std::int64_t size_of(Storage storage) noexcept {
  return storage == Storage::kFp32 ? 4 : storage == Storage::kInt8 ? 1 : 2;
}

// Of the weights and scales of whole panels over k, from the beginning of a chunk on; in bytes.
constexpr std::int64_t size_of_panels(Storage storage, std::int64_t outputs, std::int64_t k) noexcept {
  const std::int64_t scales = storage == Storage::kInt8 ? (k + kScaled - 1) / kScaled * 4 : 0;
  return outputs * (k * size_of(storage) + scales);
}

// Requires that the processor has it.
const LinearKernel& linear_kernel(Isa isa);

const LinearKernel& linear_kernel_portable();
#if defined(__x86_64__)
const LinearKernel& linear_kernel_avx2();
const LinearKernel& linear_kernel_avx512();
#endif

}  // namespace torchpool::kernels
