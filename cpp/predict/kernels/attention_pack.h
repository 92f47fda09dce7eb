// Keys as panels, eight at a time. For files that are compiled for AVX2 or more.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "predict/kernels/attention.h"
#include "predict/kernels/vector.h"

namespace torchpool::kernels {
namespace {

// Eight registers as columns of what they are as rows.
TP_ALWAYS_INLINE void transpose(__m256 (&row)[8]) {
  const __m256 a0 = _mm256_unpacklo_ps(row[0], row[1]);
  const __m256 a1 = _mm256_unpackhi_ps(row[0], row[1]);
  const __m256 a2 = _mm256_unpacklo_ps(row[2], row[3]);
  const __m256 a3 = _mm256_unpackhi_ps(row[2], row[3]);
  const __m256 a4 = _mm256_unpacklo_ps(row[4], row[5]);
  const __m256 a5 = _mm256_unpackhi_ps(row[4], row[5]);
  const __m256 a6 = _mm256_unpacklo_ps(row[6], row[7]);
  const __m256 a7 = _mm256_unpackhi_ps(row[6], row[7]);
  constexpr int kFirstPairs = 0x44;
  constexpr int kLastPairs = 0xEE;
  const __m256 b0 = _mm256_shuffle_ps(a0, a2, kFirstPairs);
  const __m256 b1 = _mm256_shuffle_ps(a0, a2, kLastPairs);
  const __m256 b2 = _mm256_shuffle_ps(a1, a3, kFirstPairs);
  const __m256 b3 = _mm256_shuffle_ps(a1, a3, kLastPairs);
  const __m256 b4 = _mm256_shuffle_ps(a4, a6, kFirstPairs);
  const __m256 b5 = _mm256_shuffle_ps(a4, a6, kLastPairs);
  const __m256 b6 = _mm256_shuffle_ps(a5, a7, kFirstPairs);
  const __m256 b7 = _mm256_shuffle_ps(a5, a7, kLastPairs);
  constexpr int kFirstHalves = 0x20;
  constexpr int kLastHalves = 0x31;
  row[0] = _mm256_permute2f128_ps(b0, b4, kFirstHalves);
  row[1] = _mm256_permute2f128_ps(b1, b5, kFirstHalves);
  row[2] = _mm256_permute2f128_ps(b2, b6, kFirstHalves);
  row[3] = _mm256_permute2f128_ps(b3, b7, kFirstHalves);
  row[4] = _mm256_permute2f128_ps(b0, b4, kLastHalves);
  row[5] = _mm256_permute2f128_ps(b1, b5, kLastHalves);
  row[6] = _mm256_permute2f128_ps(b2, b6, kLastHalves);
  row[7] = _mm256_permute2f128_ps(b3, b7, kLastHalves);
}

// The greatest, and the sum, of eight lanes.
TP_ALWAYS_INLINE float max_of_eight(__m256 x) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

TP_ALWAYS_INLINE float sum_of_eight(__m256 x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Of up to eight keys, others are zeros; a panel's keys lie side by side.
template <int kPanel, bool kAll>
TP_ALWAYS_INLINE void pack_eight(const AttentionHead& head, std::int64_t first, float* panel) {
  const float* row[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const std::int64_t key = kAll || first + i < head.keys ? first + i : head.keys - 1;
    row[i] = head.k + (head.key == nullptr ? key : head.key[key]) * head.k_stride;
  }
  for (std::int64_t feature = 0; feature < head.size; feature += 8) {
    __m256 x[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      x[i] = kAll || first + i < head.keys ? _mm256_loadu_ps(row[i] + feature) : _mm256_setzero_ps();
    }
    transpose(x);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) _mm256_storeu_ps(panel + (feature + i) * kPanel, x[i]);
  }
}

// [panel of keys][feature][key]
template <int kPanel>
TP_ALWAYS_INLINE void pack_by_eight(const AttentionHead& head, float* to) {
  const auto place = [&](std::int64_t first)
                         TP_INLINE_LAMBDA { return to + first / kPanel * kPanel * head.size + first % kPanel; };
  std::int64_t first = 0;
  for (; first + 8 <= head.keys; first += 8) pack_eight<kPanel, true>(head, first, place(first));
  for (; first < (head.keys + kPanel - 1) / kPanel * kPanel; first += 8) {
    pack_eight<kPanel, false>(head, first, place(first));
  }
}

}  // namespace
}  // namespace torchpool::kernels
