// Eight floats in a register of AVX2. For files that are compiled for AVX2 or more.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "predict/kernels/vector.h"

namespace torchpool::kernels {
namespace {

struct Vector8 {
  using Reg = __m256;
  static constexpr int kLanes = 8;

  static TP_ALWAYS_INLINE Reg zero() { return _mm256_setzero_ps(); }
  static TP_ALWAYS_INLINE Reg set(float x) { return _mm256_set1_ps(x); }
  static TP_ALWAYS_INLINE Reg load(const float* from) { return _mm256_loadu_ps(from); }
  static TP_ALWAYS_INLINE void store(float* to, Reg x) { _mm256_storeu_ps(to, x); }
  // Stored numbers as fp32. Of bf16 two vectors, that lie entry by entry side by side.
  static TP_ALWAYS_INLINE void widen_bf16(const std::uint16_t* from, Reg& first, Reg& second) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    first = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    second = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536)));
  }
  static TP_ALWAYS_INLINE Reg widen_fp16(const std::uint16_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static TP_ALWAYS_INLINE Reg widen_int8(const std::int8_t* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  }
  // Of `count` lanes, which may be none, or more than there are; others are 0.
  static TP_ALWAYS_INLINE Reg load_part(const float* from, int count) { return _mm256_maskload_ps(from, mask(count)); }
  static TP_ALWAYS_INLINE void store_part(float* to, Reg x, int count) { _mm256_maskstore_ps(to, mask(count), x); }
  static TP_ALWAYS_INLINE Reg keep(Reg x, int count) { return _mm256_and_ps(x, _mm256_castsi256_ps(mask(count))); }
  static TP_ALWAYS_INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static TP_ALWAYS_INLINE Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static TP_ALWAYS_INLINE Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static TP_ALWAYS_INLINE Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static TP_ALWAYS_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  // The second where one of them is NaN.
  static TP_ALWAYS_INLINE Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static TP_ALWAYS_INLINE Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static TP_ALWAYS_INLINE Reg round(Reg x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // 2 to the power of a whole number from -126 to 128; infinite for 128.
  static TP_ALWAYS_INLINE Reg power_of_two(Reg n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
  }
  // The form whose third operand is the sum: left to itself gcc takes others, too, and copies and spills sums for them.
  static TP_ALWAYS_INLINE void add_product(Reg& sum, Reg a, Reg b) {
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  }

 private:
  static TP_ALWAYS_INLINE __m256i mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace
}  // namespace torchpool::kernels
