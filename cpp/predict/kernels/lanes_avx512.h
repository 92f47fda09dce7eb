// Vectors of 16 floats. For files that are compiled for AVX512.
#pragma once

#include <immintrin.h>

#include "predict/kernels/lanes_avx2.h"

namespace torchpool::kernels {
namespace {  // NOLINT(google-build-namespaces): see Note [One file an instruction set]

// Operation by operation as Lanes8: the bits are the same.
struct Lanes16 {
  using Vector = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kGroup = Lanes8::kGroup;
  static constexpr int kRegisters = 32;

  static TP_INLINE Vector set(float value) { return _mm512_set1_ps(value); }
  static TP_INLINE Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static TP_INLINE Vector broadcast(const float* from) { return _mm512_set1_ps(*from); }
  static TP_INLINE void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
  static TP_INLINE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static TP_INLINE Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static TP_INLINE Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static TP_INLINE Vector divide(Vector a, Vector b) { return _mm512_div_ps(a, b); }
  static TP_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }

  template <int kCount>
  static TP_INLINE void exp2(Vector* v) {
    exp2_by_eighths<Lanes16, kCount>(v);
  }
  static TP_INLINE Vector bounded(Vector v) {
    return _mm512_min_ps(set(kMostExponent), _mm512_max_ps(set(-kMostExponent), v));
  }
  static TP_INLINE Vector eighths(Vector rounded) {
    const __m512i places = _mm512_castps_si512(rounded);
    const __m512 twice = _mm512_castsi512_ps(_mm512_broadcast_i64x4(Lanes8::table()));
    const __m512i fraction = _mm512_castps_si512(_mm512_permutexvar_ps(places, twice));
    return _mm512_castsi512_ps(_mm512_add_epi32(fraction, _mm512_slli_epi32(places, 20)));
  }

  static TP_INLINE void to_lanes(const float* const* rows, std::ptrdiff_t features, float* to, std::ptrdiff_t stride) {
    Lanes8::to_lanes(rows, features, to, stride);
  }
  static TP_INLINE void from_lanes(const float* from, std::ptrdiff_t stride, std::ptrdiff_t features,
                                   float* const* rows, int count) {
    Lanes8::from_lanes(from, stride, features, rows, count);
  }
};

}  // namespace
}  // namespace torchpool::kernels
