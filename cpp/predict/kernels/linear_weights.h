// How stored weights become fp32, for the vectors of an instruction set. See Notes [One file an instruction set] and
// [Stored in less, computed in fp32].
#pragma once

#include <cstdint>

#include "predict/kernels/linear.h"
#include "predict/kernels/vector.h"

namespace torchpool::kernels {
namespace {

// What weights of a panel are stored as. kOnceFrom: so many tiles of rows are worth widening a panel into a buffer; 0:
// never. kGroup: weights of an output that share a scale, or are read in one go.
template <Storage kStored, class E, int kTiles, std::int64_t kShared>
struct StoredAs {
  using Element = E;
  static constexpr Storage kStorage = kStored;
  static constexpr int kOnceFrom = kTiles;
  static constexpr std::int64_t kGroup = kShared;
};

// read(): the two vectors of a panel at one k, of which `scales` are those of its group, or nothing.
template <class V, Storage kStorage>
struct Weights;

template <class V>
struct Weights<V, Storage::kFp32> : StoredAs<Storage::kFp32, float, 0, kChunk> {
  static TP_ALWAYS_INLINE void read(const float* from, const float* /*scales*/, typename V::Reg& first,
                                    typename V::Reg& second) {
    first = V::load(from);
    second = V::load(from + V::kLanes);
  }
};

template <class V>
struct Weights<V, Storage::kBf16> : StoredAs<Storage::kBf16, std::uint16_t, 4, kChunk> {
  static TP_ALWAYS_INLINE void read(const std::uint16_t* from, const float* /*scales*/, typename V::Reg& first,
                                    typename V::Reg& second) {
    V::widen_bf16(from, first, second);
  }
};

template <class V>
struct Weights<V, Storage::kFp16> : StoredAs<Storage::kFp16, std::uint16_t, 3, kChunk> {
  static TP_ALWAYS_INLINE void read(const std::uint16_t* from, const float* /*scales*/, typename V::Reg& first,
                                    typename V::Reg& second) {
    first = V::widen_fp16(from);
    second = V::widen_fp16(from + V::kLanes);
  }
};

template <class V>
struct Weights<V, Storage::kInt8> : StoredAs<Storage::kInt8, std::int8_t, 2, kScaled> {
  static TP_ALWAYS_INLINE void read(const std::int8_t* from, const float* scales, typename V::Reg& first,
                                    typename V::Reg& second) {
    first = V::mul(V::widen_int8(from), V::load(scales));
    second = V::mul(V::widen_int8(from + V::kLanes), V::load(scales + V::kLanes));
  }
};

// The scales of a panel over `k`, of which there may be none, and its weights behind them.
template <class W>
struct StoredPanel {
  static constexpr bool kIsScaled = W::kStorage == Storage::kInt8;

  TP_ALWAYS_INLINE StoredPanel(const char* panel, std::int64_t outputs, std::int64_t k)
      : scales(reinterpret_cast<const float*>(panel)),
        weights(reinterpret_cast<const typename W::Element*>(
            panel + (kIsScaled ? (k + kScaled - 1) / kScaled * outputs * std::int64_t{sizeof(float)} : 0))) {}

  const float* scales;
  const typename W::Element* weights;
};

// A panel as fp32, where it is widened once.
template <class V, class W>
void widen_panel(const char* panel, std::int64_t k, float* to) {
  constexpr std::int64_t kPanel = 2 * V::kLanes;
  const StoredPanel<W> stored(panel, kPanel, k);
  const float* scales = stored.scales;
  const typename W::Element* weights = stored.weights;
  for (std::int64_t begin = 0; begin < k; begin += W::kGroup, scales += kPanel) {
    const std::int64_t end = begin + W::kGroup < k ? begin + W::kGroup : k;
    for (std::int64_t i = begin; i < end; ++i, weights += kPanel, to += kPanel) {
      typename V::Reg first;
      typename V::Reg second;
      W::read(weights, scales, first, second);
      V::store(to, first);
      V::store(to + V::kLanes, second);
    }
  }
}

}  // namespace
}  // namespace torchpool::kernels
