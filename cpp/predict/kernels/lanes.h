// What the vectors of all instruction sets have in common. For files of one instruction set only.
#pragma once

#include <cstddef>
#include <cstdint>

// A loop over vectors in registers: its vectors stay there only if it is unrolled early.
#if defined(__clang__)
#define TP_UNROLL _Pragma("unroll")
#else
#define TP_UNROLL _Pragma("GCC unroll 16")
#endif
#define TP_INLINE inline __attribute__((always_inline))

namespace torchpool::kernels {
namespace {  // NOLINT(google-build-namespaces): see Note [One file an instruction set]

// Exponents of 2 beyond these change no result.
inline constexpr float kMostExponent = 40.0F;

// 2^v for kCount vectors of `L`, with a relative error of 2e-7. All advance together: the processor looks ahead over
// little more than one such chain, so that chains one after another would hardly overlap (60 cycles a cell, 37
// together). L::bounded() clamps to kMostExponent; L::eighths() is 2^(i/8) for a sum with kEighths, whose last place is
// i: 8 numbers, and the polynomial for the rest, which is fitted to it, so that its coefficients are nobody's
// constants.
inline constexpr float kEighths = 1572864.0F;  // 1.5 * 2^20

template <typename L, int kCount>
TP_INLINE void exp2_by_eighths(typename L::Vector* v) {
  using Vector = typename L::Vector;
  constexpr float kFirst = 0.693147242F;  // NOLINT(modernize-use-std-numbers): fitted, not ln 2
  const Vector magic = L::set(kEighths);
  Vector rounded[kCount];
  Vector power[kCount];
  TP_UNROLL for (int i = 0; i < kCount; ++i) v[i] = L::bounded(v[i]);
  TP_UNROLL for (int i = 0; i < kCount; ++i) rounded[i] = L::add(v[i], magic);
  TP_UNROLL for (int i = 0; i < kCount; ++i) v[i] = L::subtract(v[i], L::subtract(rounded[i], magic));
  TP_UNROLL for (int i = 0; i < kCount; ++i) {
    power[i] = L::multiply_add(L::set(0.0554962233F), v[i], L::set(0.240257636F));
  }
  TP_UNROLL for (int i = 0; i < kCount; ++i) power[i] = L::multiply_add(power[i], v[i], L::set(kFirst));
  TP_UNROLL for (int i = 0; i < kCount; ++i) power[i] = L::multiply_add(power[i], v[i], L::set(1.0F));
  TP_UNROLL for (int i = 0; i < kCount; ++i) rounded[i] = L::eighths(rounded[i]);
  TP_UNROLL for (int i = 0; i < kCount; ++i) v[i] = L::multiply(power[i], rounded[i]);
}

}  // namespace
}  // namespace torchpool::kernels
