// Sixteen floats in a register of AVX512. For files that are compiled for it.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "predict/kernels/vector.h"

namespace torchpool::kernels {
namespace {

struct Vector16 {
  using Reg = __m512;
  static constexpr int kLanes = 16;

  static TP_ALWAYS_INLINE Reg zero() { return _mm512_setzero_ps(); }
  static TP_ALWAYS_INLINE Reg set(float x) { return _mm512_set1_ps(x); }
  static TP_ALWAYS_INLINE Reg load(const float* from) { return _mm512_loadu_ps(from); }
  static TP_ALWAYS_INLINE void store(float* to, Reg x) { _mm512_storeu_ps(to, x); }
  // See Vector8.
  static TP_ALWAYS_INLINE void widen_bf16(const std::uint16_t* from, Reg& first, Reg& second) {
    const __m512i pairs = _mm512_loadu_si512(from);
    first = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    second = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
  }
  static TP_ALWAYS_INLINE Reg widen_fp16(const std::uint16_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static TP_ALWAYS_INLINE Reg widen_int8(const std::int8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  // Of `count` lanes, which may be none, or more than there are; others are 0.
  static TP_ALWAYS_INLINE Reg load_part(const float* from, int count) {
    return _mm512_maskz_loadu_ps(mask(count), from);
  }
  static TP_ALWAYS_INLINE void store_part(float* to, Reg x, int count) { _mm512_mask_storeu_ps(to, mask(count), x); }
  static TP_ALWAYS_INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static TP_ALWAYS_INLINE Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static TP_ALWAYS_INLINE Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static TP_ALWAYS_INLINE Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static TP_ALWAYS_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  // The second where one of them is NaN.
  static TP_ALWAYS_INLINE Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static TP_ALWAYS_INLINE Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static TP_ALWAYS_INLINE Reg round(Reg x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // 2 to the power of a whole number from -126 to 128; infinite for 128.
  static TP_ALWAYS_INLINE Reg power_of_two(Reg n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
  }
  // See Vector8.
  static TP_ALWAYS_INLINE void add_product(Reg& sum, Reg a, Reg b) {
    asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }

 private:
  static TP_ALWAYS_INLINE __mmask16 mask(int count) {
    const int lanes = count < 0 ? 0 : count > kLanes ? kLanes : count;
    return static_cast<__mmask16>((1U << static_cast<unsigned>(lanes)) - 1U);
  }
};

}  // namespace
}  // namespace torchpool::kernels
