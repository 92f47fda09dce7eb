// Vectors of 8 floats. For files that are compiled for AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include "predict/kernels/lanes.h"

namespace torchpool::kernels {
namespace {  // NOLINT(google-build-namespaces): see Note [One file an instruction set]

struct Lanes8 {
  using Vector = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kGroup = 8;  // rows that are turned into lanes at once
#if defined(__AVX512VL__)
  static constexpr int kRegisters = 32;
#else
  static constexpr int kRegisters = 16;
#endif

  static TP_INLINE Vector set(float value) { return _mm256_set1_ps(value); }
  static TP_INLINE Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static TP_INLINE Vector broadcast(const float* from) { return _mm256_broadcast_ss(from); }
  static TP_INLINE void store(float* to, Vector v) { _mm256_storeu_ps(to, v); }
  static TP_INLINE Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static TP_INLINE Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static TP_INLINE Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static TP_INLINE Vector divide(Vector a, Vector b) { return _mm256_div_ps(a, b); }
  // a * b + c
  static TP_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }

  template <int kCount>
  static TP_INLINE void exp2(Vector* v) {
    exp2_by_eighths<Lanes8, kCount>(v);
  }
  // The second operand is what these two give for NaN.
  static TP_INLINE Vector bounded(Vector v) {
    return _mm256_min_ps(set(kMostExponent), _mm256_max_ps(set(-kMostExponent), v));
  }
  static TP_INLINE Vector eighths(Vector rounded) {
    const __m256i places = _mm256_castps_si256(rounded);
    const __m256i fraction = _mm256_castps_si256(_mm256_permutevar8x32_ps(_mm256_castsi256_ps(table()), places));
    return _mm256_castsi256_ps(_mm256_add_epi32(fraction, _mm256_slli_epi32(places, 20)));
  }
  // 2^(i/8), less i/8 of what kEighths adds to the exponent.
  static TP_INLINE __m256i table() {
    return _mm256_setr_epi32(0x3f800000, 0x3f8b95c2 - (1 << 20), 0x3f9837f0 - (2 << 20), 0x3fa5fed7 - (3 << 20),
                             0x3fb504f3 - (4 << 20), 0x3fc5672a - (5 << 20), 0x3fd744fd - (6 << 20),
                             0x3feac0c7 - (7 << 20));
  }

  // Feature f of row r goes to `to[f * stride + r]`, for kGroup rows.
  static TP_INLINE void to_lanes(const float* const* rows, std::ptrdiff_t features, float* to, std::ptrdiff_t stride) {
    Vector v[8];
    std::ptrdiff_t f = 0;
    for (; f + 8 <= features; f += 8) {
      TP_UNROLL for (int r = 0; r < 8; ++r) v[r] = load(rows[r] + f);
      transpose(v);
      TP_UNROLL for (int r = 0; r < 8; ++r) store(to + (f + r) * stride, v[r]);
    }
    if (f == features) return;
    const __m256i mask = first(features - f);
    TP_UNROLL for (int r = 0; r < 8; ++r) v[r] = _mm256_maskload_ps(rows[r] + f, mask);
    transpose(v);
    float left[64];
    TP_UNROLL for (std::ptrdiff_t r = 0; r < 8; ++r) store(left + 8 * r, v[r]);
    for (std::ptrdiff_t i = 0; f + i < features; ++i) store(to + (f + i) * stride, load(left + 8 * i));
  }

  // The way back, for the first `count` of kGroup rows.
  static TP_INLINE void from_lanes(const float* from, std::ptrdiff_t stride, std::ptrdiff_t features,
                                   float* const* rows, int count) {
    Vector v[8];
    std::ptrdiff_t f = 0;
    for (; f < features; f += 8) {
      const std::ptrdiff_t left = features - f;
      for (std::ptrdiff_t i = 0; i < 8; ++i) v[i] = load(from + (f + (i < left ? i : left - 1)) * stride);
      transpose(v);
      const __m256i mask = first(left);
      TP_UNROLL for (int r = 0; r < 8; ++r) {
        if (r < count) _mm256_maskstore_ps(rows[r] + f, mask, v[r]);
      }
    }
  }

 private:
  static TP_INLINE __m256i first(std::ptrdiff_t count) {
    const int all = count < 8 ? static_cast<int>(count) : 8;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(all), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }

  static TP_INLINE void transpose(Vector* v) {
    Vector pairs[8];
    Vector quads[8];
    TP_UNROLL for (std::ptrdiff_t i = 0; i < 4; ++i) {
      pairs[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
      pairs[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
    TP_UNROLL for (std::ptrdiff_t i = 0; i < 2; ++i) {
      quads[4 * i] = _mm256_shuffle_ps(pairs[4 * i], pairs[4 * i + 2], 0x44);
      quads[4 * i + 1] = _mm256_shuffle_ps(pairs[4 * i], pairs[4 * i + 2], 0xEE);
      quads[4 * i + 2] = _mm256_shuffle_ps(pairs[4 * i + 1], pairs[4 * i + 3], 0x44);
      quads[4 * i + 3] = _mm256_shuffle_ps(pairs[4 * i + 1], pairs[4 * i + 3], 0xEE);
    }
    TP_UNROLL for (std::ptrdiff_t i = 0; i < 4; ++i) {
      v[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
      v[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
  }
};

}  // namespace
}  // namespace torchpool::kernels
