// Four floats, for any processor.
#pragma once

#include <cstdint>

#include "predict/kernels/vector.h"

namespace torchpool::kernels {
namespace {

// Four floats, as any processor has them: a compiler makes vector instructions of such a type where there are some.
struct Vector4 {
  typedef float Reg __attribute__((vector_size(16)));          // NOLINT(modernize-use-using): the attribute's place
  typedef std::int32_t Bits __attribute__((vector_size(16)));  // NOLINT(modernize-use-using)
  static constexpr int kLanes = 4;

  static TP_ALWAYS_INLINE Reg zero() { return Reg{}; }
  static TP_ALWAYS_INLINE Reg set(float x) { return Reg{x, x, x, x}; }
  static TP_ALWAYS_INLINE Reg load(const float* from) { return Reg{from[0], from[1], from[2], from[3]}; }
  static TP_ALWAYS_INLINE void store(float* to, Reg x) {
    for (int i = 0; i < kLanes; ++i) to[i] = x[i];
  }
  // Of `count` lanes, which may be none, or more than there are; others are 0.
  static TP_ALWAYS_INLINE Reg load_part(const float* from, int count) {
    Reg x{};
    for (int i = 0; i < kLanes && i < count; ++i) x[i] = from[i];
    return x;
  }
  static TP_ALWAYS_INLINE void store_part(float* to, Reg x, int count) {
    for (int i = 0; i < kLanes && i < count; ++i) to[i] = x[i];
  }
  static TP_ALWAYS_INLINE Reg keep(Reg x, int count) {
    for (int i = count; i < kLanes; ++i) x[i] = 0.0F;
    return x;
  }
  static TP_ALWAYS_INLINE Reg add(Reg a, Reg b) { return a + b; }
  static TP_ALWAYS_INLINE Reg sub(Reg a, Reg b) { return a - b; }
  static TP_ALWAYS_INLINE Reg mul(Reg a, Reg b) { return a * b; }
  static TP_ALWAYS_INLINE Reg div(Reg a, Reg b) { return a / b; }
  static TP_ALWAYS_INLINE Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }
  // The second where one of them is NaN.
  static TP_ALWAYS_INLINE Reg min(Reg a, Reg b) { return a < b ? a : b; }
  static TP_ALWAYS_INLINE Reg max(Reg a, Reg b) { return a > b ? a : b; }
  // Of less than 2^22: beyond 1.5 * 2^23 floats are whole numbers.
  static TP_ALWAYS_INLINE Reg round(Reg x) {
    const Reg shift = set(12582912.0F);
    return (x + shift) - shift;
  }
  // 2 to the power of a whole number from -126 to 128; infinite for 128.
  static TP_ALWAYS_INLINE Reg power_of_two(Reg n) {
    const Bits bits = (__builtin_convertvector(n, Bits) + 127) << 23;
    return __builtin_bit_cast(Reg, bits);
  }
  static TP_ALWAYS_INLINE void add_product(Reg& sum, Reg a, Reg b) { sum += a * b; }
};

}  // namespace
}  // namespace torchpool::kernels
