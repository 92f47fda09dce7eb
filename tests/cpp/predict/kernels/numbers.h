// Numbers for the tests of kernels.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace torchpool::kernels {

using Floats = std::vector<float>;
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInf = std::numeric_limits<float>::infinity();

// The same numbers everywhere, between -1 and 1.
inline Floats numbers(std::int64_t count, std::uint32_t seed) {
  Floats found(static_cast<std::size_t>(count));
  std::uint32_t state = seed * 2654435761U + 1;
  for (float& one : found) {
    state = state * 1664525U + 1013904223U;
    one = static_cast<float>(state >> 8U) / static_cast<float>(1U << 23U) - 1.0F;
  }
  return found;
}

}  // namespace torchpool::kernels
