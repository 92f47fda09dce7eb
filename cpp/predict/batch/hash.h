// Hashes of words, by which calls and weights are told apart.
#pragma once

#include <bit>
#include <cstdint>

namespace torchpool {

inline constexpr std::uint64_t kGoldenRatio = 0x9e3779b97f4a7c15ULL;  // of 2^64; odd, its bits without a pattern

// The finalizer of splitmix64 (Steele et al. 2014): every bit of the result depends on every bit of `word`.
constexpr std::uint64_t mix_bits(std::uint64_t word) noexcept {
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9ULL;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebULL;
  return word ^ (word >> 31);
}

// `hash` with one more word. For keys: equal ones are taken for equal without a look at what they are keys of.
constexpr std::uint64_t add_word(std::uint64_t hash, std::uint64_t word) noexcept {
  return mix_bits(hash ^ (word + kGoldenRatio));
}

// The same in a third of the time, so that weights are hashed as fast as memory is read. For what is compared with
// what was in the same place before: a difference is seen, but the last words reach the high bits of the hash only.
constexpr std::uint64_t add_word_quickly(std::uint64_t hash, std::uint64_t word) noexcept {
  return (std::rotl(hash, 29) ^ word) * kGoldenRatio;
}

}  // namespace torchpool
