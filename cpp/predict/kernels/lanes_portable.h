// Vectors of 4 floats in the compiler's own terms, for processors that no other file is for.
#pragma once

#include "predict/kernels/lanes.h"

namespace torchpool::kernels {
namespace {  // NOLINT(google-build-namespaces): see Note [One file an instruction set]

struct Lanes4 {
  using Vector = float __attribute__((vector_size(16)));
  using Integers = std::int32_t __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kGroup = 4;
  static constexpr int kRegisters = 16;

  static TP_INLINE Vector set(float value) { return Vector{value, value, value, value}; }
  static TP_INLINE Vector load(const float* from) { return Vector{from[0], from[1], from[2], from[3]}; }
  static TP_INLINE Vector broadcast(const float* from) { return set(*from); }
  static TP_INLINE void store(float* to, Vector v) { __builtin_memcpy(to, &v, sizeof(v)); }
  static TP_INLINE Vector add(Vector a, Vector b) { return a + b; }
  static TP_INLINE Vector subtract(Vector a, Vector b) { return a - b; }
  static TP_INLINE Vector multiply(Vector a, Vector b) { return a * b; }
  static TP_INLINE Vector divide(Vector a, Vector b) { return a / b; }
  static TP_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }

  // Rounds to a whole exponent; the rest by a polynomial of degree 5, with a relative error of 1e-7.
  template <int kCount>
  static TP_INLINE void exp2(Vector* v) {
    const Vector magic = set(12582912.0F);  // 1.5 * 2^23: its last place is 1
    TP_UNROLL for (int i = 0; i < kCount; ++i) {
      Vector x = v[i];
      x = x < set(-kMostExponent) ? set(-kMostExponent) : x;  // false for NaN
      x = x > set(kMostExponent) ? set(kMostExponent) : x;
      const Vector rounded = x + magic;
      x = x - (rounded - magic);
      Vector power = set(0.00132647273F) * x + set(0.00967151299F);
      power = power * x + set(0.0555073358F);
      power = power * x + set(0.240222424F);
      power = power * x + set(0.693147004F);  // NOLINT(modernize-use-std-numbers): fitted, not ln 2
      power = power * x + set(1.0F);
      const Integers exponent = (Integers)rounded << 23;  // the magic number's own bits are shifted out
      v[i] = power * (Vector)(exponent + 0x3f800000);
    }
  }

  static TP_INLINE void to_lanes(const float* const* rows, std::ptrdiff_t features, float* to, std::ptrdiff_t stride) {
    for (std::ptrdiff_t f = 0; f < features; ++f) {
      for (int r = 0; r < kGroup; ++r) to[f * stride + r] = rows[r][f];
    }
  }
  static TP_INLINE void from_lanes(const float* from, std::ptrdiff_t stride, std::ptrdiff_t features,
                                   float* const* rows, int count) {
    for (std::ptrdiff_t f = 0; f < features; ++f) {
      for (int r = 0; r < count; ++r) rows[r][f] = from[f * stride + r];
    }
  }
};

}  // namespace
}  // namespace torchpool::kernels
