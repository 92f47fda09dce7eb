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
    const __m512 table = _mm512_castsi512_ps(_mm512_broadcast_i64x4(_mm256_setr_epi32(
        0x3f800000, 0x3f8b95c2 - (1 << 20), 0x3f9837f0 - (2 << 20), 0x3fa5fed7 - (3 << 20), 0x3fb504f3 - (4 << 20),
        0x3fc5672a - (5 << 20), 0x3fd744fd - (6 << 20), 0x3feac0c7 - (7 << 20))));
    const Vector magic = set(1572864.0F);
    Vector rounded[kCount];
    Vector power[kCount];
    TP_UNROLL for (int i = 0; i < kCount; ++i) v[i] = _mm512_max_ps(set(-kMostExponent), v[i]);
    TP_UNROLL for (int i = 0; i < kCount; ++i) v[i] = _mm512_min_ps(set(kMostExponent), v[i]);
    TP_UNROLL for (int i = 0; i < kCount; ++i) rounded[i] = add(v[i], magic);
    TP_UNROLL for (int i = 0; i < kCount; ++i) v[i] = subtract(v[i], subtract(rounded[i], magic));
    TP_UNROLL for (int i = 0; i < kCount; ++i) power[i] = multiply_add(set(0.0554962233F), v[i], set(0.240257636F));
    TP_UNROLL for (int i = 0; i < kCount; ++i) power[i] = multiply_add(power[i], v[i], set(0.693147242F));
    TP_UNROLL for (int i = 0; i < kCount; ++i) power[i] = multiply_add(power[i], v[i], set(1.0F));
    TP_UNROLL for (int i = 0; i < kCount; ++i) {
      const __m512i eighths = _mm512_castps_si512(rounded[i]);
      const __m512i fraction = _mm512_castps_si512(_mm512_permutexvar_ps(eighths, table));
      rounded[i] = _mm512_castsi512_ps(_mm512_add_epi32(fraction, _mm512_slli_epi32(eighths, 20)));
    }
    TP_UNROLL for (int i = 0; i < kCount; ++i) v[i] = multiply(power[i], rounded[i]);
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
