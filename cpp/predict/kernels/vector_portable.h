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
  // See Vector8.
  static TP_ALWAYS_INLINE void widen_bf16(const std::uint16_t* from, Reg& first, Reg& second) {
    Bits pairs;
    for (int i = 0; i < kLanes; ++i, from += 2) pairs[i] = static_cast<std::int32_t>(from[0] | (from[1] * 65536U));
    first = __builtin_bit_cast(Reg, pairs << 16);
    second = __builtin_bit_cast(Reg, pairs & -65536);
  }
  static TP_ALWAYS_INLINE Reg widen_fp16(const std::uint16_t* from) {
    Bits bits;
    for (int i = 0; i < kLanes; ++i) bits[i] = from[i];
    const Bits magnitude = (bits & 0x7fff) << 13;
    // What the narrow exponent leaves out is multiplied in, which makes normal what was subnormal, too.
    const Bits finite = __builtin_bit_cast(Bits, __builtin_bit_cast(Reg, magnitude) * set(0x1p112F));
    const Bits special = magnitude | 0x7f800000;
    const Bits is_special = (bits & 0x7c00) == 0x7c00;
    return __builtin_bit_cast(Reg, (is_special & special) | (~is_special & finite) | ((bits & 0x8000) << 16));
  }
  static TP_ALWAYS_INLINE Reg widen_int8(const std::int8_t* from) {
    return Reg{static_cast<float>(from[0]), static_cast<float>(from[1]), static_cast<float>(from[2]),
               static_cast<float>(from[3])};
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
