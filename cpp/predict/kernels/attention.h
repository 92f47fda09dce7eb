// softmax(scale * q @ k.T) @ v of fp32, for one head of one row of a batch.
#pragma once

#include <cstdint>

#include "predict/kernels/isa.h"

namespace torchpool::kernels {

// Note [Attention without padding]
// Each head of each row is computed by itself, over the keys that it has: there is no padding, and no mask. Its keys
// and values are packed so that both products read panels of one register's width, one step of the sum after the
// other; a few rows of scores, whole, stay in the cache between them. A row's result depends on its own keys only, and
// on no tile that it lies in: all sums run in rising order. Sums over keys run in chunks, which are then added up: that
// keeps the rounding error of long ones down.

// One head of one row. Rows of each matrix are its `stride` floats apart.
struct AttentionHead {
  const float* q = nullptr;  // [queries, size]
  std::int64_t q_stride = 0;
  const float* k = nullptr;  // [..., size]
  std::int64_t k_stride = 0;
  const float* v = nullptr;  // [..., size]
  std::int64_t v_stride = 0;
  float* out = nullptr;  // [queries, size]; overlaps nothing of the others
  std::int64_t out_stride = 0;
  std::int64_t queries = 0;
  std::int64_t keys = 0;              // at least 1
  const std::int32_t* key = nullptr;  // [keys], which rows of k and v these are; null: the first ones
  std::int64_t size = 0;              // a multiple of 8
  float scale = 1;                    // above 0
  bool causal = false;                // query i attends to keys up to i; there are as many keys as queries
};

// Floats between rows of scores, beyond their own: rows that lie a power of two apart would share few places of a
// cache.
inline constexpr std::int64_t kApart = 16;

// The kernel of an instruction set.
struct AttentionKernel {
  Isa isa;
  std::int64_t lanes;
  std::int64_t rows;  // that go through the keys together
  // scratch: of scratch_size() floats, best at a multiple of 64 bytes.
  void (*run)(const AttentionHead& head, float* scratch);

  std::int64_t scratch_size(std::int64_t keys, std::int64_t size) const noexcept {
    const std::int64_t wide_keys = (keys + lanes - 1) / lanes * lanes;
    const std::int64_t wide_size = (size + lanes - 1) / lanes * lanes;
    return wide_keys * size + wide_size * keys + (wide_keys + kApart) * rows + wide_size * rows;
  }
};

// Requires that the processor has it.
const AttentionKernel& attention_kernel(Isa isa);

const AttentionKernel& attention_kernel_portable();
#if defined(__x86_64__)
const AttentionKernel& attention_kernel_avx2();
const AttentionKernel& attention_kernel_avx512();
#endif

}  // namespace torchpool::kernels
