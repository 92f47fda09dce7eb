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

}  // namespace
}  // namespace torchpool::kernels
