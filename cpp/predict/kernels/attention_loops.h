// Attention itself, for the vectors of an instruction set. See Notes [One file an instruction set] and [Attention
// without padding].
#pragma once

#include <cstdint>
#include <numbers>
#include <utility>

#include "predict/kernels/attention.h"
#include "predict/kernels/vector.h"

namespace torchpool::kernels {
namespace {

// Of these a row's values are summed up by themselves: so few that two panels of them stay in the first-level cache.
constexpr std::int64_t kKeyChunk = 128;

// y (+)= x @ panels, of some rows and one or two neighbouring panels of a register's width.
struct Product {
  const float* x;
  std::int64_t x_stride;
  const float* panels;
  std::int64_t panel_size;  // floats from one panel to the next
  std::int64_t steps;
  float* y;
  std::int64_t y_stride;
  bool first;  // y is written, else added to
};

// Indices of sums are constants for the front end, since gcc 12 spills sums that are indexed otherwise.
template <class V, int kVectors, int... kRow, int... kSum>
TP_ALWAYS_INLINE void multiply(std::integer_sequence<int, kRow...> /*rows*/,
                               std::integer_sequence<int, kSum...> /*sums*/, const Product& product) {
  using Reg = typename V::Reg;
  constexpr int kRows = sizeof...(kRow);
  const std::int64_t stride = product.x_stride;
  const float* x0 = product.x;
  const float* x3 = x0 + 3 * stride;
  const float* x6 = x0 + 6 * stride;
  const float* x9 = x0 + 9 * stride;
  const float* w0 = product.panels;
  const float* w1 = w0 + product.panel_size;
  Reg sums[kRows * kVectors];
  ((sums[kSum] = V::zero()), ...);
  const auto step = [&](auto offset) TP_INLINE_LAMBDA {
    constexpr int kStep = decltype(offset)::value;
    Reg w[2];
    Reg x[kRows];
    w[0] = V::load(w0 + kStep * V::kLanes);
    if constexpr (kVectors == 2) w[1] = V::load(w1 + kStep * V::kLanes);
    ((kSum % kVectors == 0
          ? void(x[kSum / kVectors] = V::set(((kSum / kVectors < 3)   ? x0
                                              : (kSum / kVectors < 6) ? x3
                                              : (kSum / kVectors < 9) ? x6
                                                                      : x9)[(kSum / kVectors % 3) * stride + kStep]))
          : void(),
      V::add_product(sums[kSum], x[kSum / kVectors], w[kSum % kVectors])),
     ...);
  };
  const auto move = [&](int steps) TP_INLINE_LAMBDA {
    x0 += steps;
    if constexpr (kRows > 3) x3 += steps;
    if constexpr (kRows > 6) x6 += steps;
    if constexpr (kRows > 9) x9 += steps;
    w0 += steps * V::kLanes;
    if constexpr (kVectors == 2) w1 += steps * V::kLanes;
  };
  std::int64_t left = product.steps;
  for (; left >= 4; left -= 4) {
    step(std::integral_constant<int, 0>());
    step(std::integral_constant<int, 1>());
    step(std::integral_constant<int, 2>());
    step(std::integral_constant<int, 3>());
    move(4);
  }
  for (; left > 0; --left) {
    step(std::integral_constant<int, 0>());
    move(1);
  }
  const auto finish = [&](auto index) TP_INLINE_LAMBDA {
    constexpr int kIndex = decltype(index)::value;
    float* const to = product.y + kIndex / kVectors * product.y_stride + kIndex % kVectors * V::kLanes;
    V::store(to, product.first ? sums[kIndex] : V::add(V::load(to), sums[kIndex]));
  };
  (finish(std::integral_constant<int, kSum>()), ...);
}

template <class V, int kRows, int kVectors>
__attribute__((noinline)) void multiply_tile(const Product& product) {
  multiply<V, kVectors>(std::make_integer_sequence<int, kRows>(), std::make_integer_sequence<int, kRows * kVectors>(),
                        product);
}

template <class V, int kVectors, int kRows = V::kRows>
TP_ALWAYS_INLINE void multiply_rows(int rows, const Product& product) {
  if (rows == kRows) return multiply_tile<V, kRows, kVectors>(product);
  if constexpr (kRows > 1) multiply_rows<V, kVectors, kRows - 1>(rows, product);
}

// Of any number of rows, over all panels: two of them pass all rows while they are in the first-level cache.
template <class V>
void multiply_panels(int rows, const Product& whole, std::int64_t panels) {
  const int tiles = (rows + V::kRows - 1) / V::kRows;
  for (std::int64_t panel = 0; panel < panels; panel += 2) {
    Product product = whole;
    product.panels += panel * product.panel_size;
    product.y += panel * V::kLanes;
    for (int tile = 0; tile < tiles; ++tile) {
      const int own = rows / tiles + (tile < rows % tiles ? 1 : 0);
      if (panel + 1 < panels) {
        multiply_rows<V, 2>(own, product);
      } else {
        multiply_rows<V, 1>(own, product);
      }
      product.x += own * product.x_stride;
      product.y += own * product.y_stride;
    }
  }
}

template <class V>
TP_ALWAYS_INLINE std::int64_t panels_of(std::int64_t width) {
  return (width + V::kLanes - 1) / V::kLanes;
}

// What is added to and multiplied with a register of which the first lanes are kept. Read from `lanes - count` on.
template <class V>
struct Kept {
  float added[2 * V::kLanes];   // 0, then -inf
  float factor[2 * V::kLanes];  // 1, then 0
  constexpr Kept() : added(), factor() {
    for (int i = 0; i < V::kLanes; ++i) {
      added[V::kLanes + i] = -__builtin_inff();
      factor[i] = 1.0F;
    }
  }
};

template <class V>
constexpr Kept<V> kKept{};

// The greatest of a row's first `count` scores. Others of the last register become -inf. Not NaN where some are.
template <class V>
TP_ALWAYS_INLINE float top_of(float* scores, std::int64_t count) {
  using Reg = typename V::Reg;
  Reg top = V::set(-__builtin_inff());
  Reg other = top;
  std::int64_t j = 0;
  for (; j + 2 * V::kLanes <= count; j += 2 * V::kLanes) {
    top = V::max(top, V::load(scores + j));
    other = V::max(other, V::load(scores + j + V::kLanes));
  }
  if (j + V::kLanes <= count) {
    top = V::max(top, V::load(scores + j));
    j += V::kLanes;
  }
  if (j < count) {
    const int rest = static_cast<int>(count - j);
    const Reg last = V::add(V::load_part(scores + j, rest), V::load(kKept<V>.added + V::kLanes - rest));
    V::store(scores + j, last);
    other = V::max(other, last);
  }
  return V::max_of(V::max(top, other));
}

// 2 to the power of what is at most little above 0; never subnormal. NaN stays NaN.
template <class V>
TP_ALWAYS_INLINE typename V::Reg power_below_one(typename V::Reg x) {
  x = V::max(V::set(-126.0F), x);
  const auto n = V::round(x);
  const auto r = V::sub(x, n);
  auto p = V::set(1.535336188319500e-4F);
  p = V::fma(p, r, V::set(1.339887440266574e-3F));
  p = V::fma(p, r, V::set(9.618437357674640e-3F));
  p = V::fma(p, r, V::set(5.550332471162809e-2F));
  p = V::fma(p, r, V::set(2.402264791363012e-1F));
  p = V::fma(p, r, V::set(6.931472028550421e-1F));  // NOLINT(modernize-use-std-numbers): fitted, not ln 2
  p = V::fma(p, r, V::set(1.0F));
  return V::mul(p, V::power_of_two(n));
}

// exp(scale * (score - top)) of a row's first `count` scores, in place, and zeros up to `end`. Returns their sum, which
// is NaN where one is.
template <class V>
TP_ALWAYS_INLINE float weigh(float* scores, std::int64_t count, std::int64_t end, float top, float scale) {
  using Reg = typename V::Reg;
  // As a power of 2. What rounding takes from the greatest is the same for all, and goes with their sum.
  const Reg factor = V::set(scale * std::numbers::log2e_v<float>);
  const Reg off = V::sub(V::zero(), V::mul(V::set(top), factor));
  Reg sum = V::zero();
  Reg other = sum;
  const auto weight = [&](std::int64_t at)
                          TP_INLINE_LAMBDA { return power_below_one<V>(V::fma(V::load(scores + at), factor, off)); };
  std::int64_t j = 0;
  for (; j + 2 * V::kLanes <= count; j += 2 * V::kLanes) {
    const Reg first = weight(j);
    const Reg second = weight(j + V::kLanes);
    V::store(scores + j, first);
    V::store(scores + j + V::kLanes, second);
    sum = V::add(sum, first);
    other = V::add(other, second);
  }
  if (j + V::kLanes <= count) {
    const Reg first = weight(j);
    V::store(scores + j, first);
    sum = V::add(sum, first);
    j += V::kLanes;
  }
  if (j < count) {
    const Reg last = V::mul(weight(j), V::load(kKept<V>.factor + V::kLanes - (count - j)));
    V::store(scores + j, last);
    other = V::add(other, last);
    j += V::kLanes;
  }
  for (; j < end; j += V::kLanes) V::store(scores + j, V::zero());
  return V::sum_of(V::add(sum, other));
}

template <class V>
class Attention {
 public:
  Attention(const AttentionHead& head, float* scratch)
      : head_(head),
        wide_keys_(panels_of<V>(head.keys) * V::kLanes),
        wide_size_(panels_of<V>(head.size) * V::kLanes),
        keys_(scratch),
        values_(keys_ + wide_keys_ * head.size),
        scores_(values_ + wide_size_ * head.keys),
        scores_stride_(wide_keys_ + kApart),
        sums_(scores_ + scores_stride_ * V::kBlock) {}

  void run() const {
    if (head_.keys == 1) return copy_value();
    V::pack_keys(head_, keys_);
    pack_values();
    const std::int64_t blocks = (head_.queries + V::kBlock - 1) / V::kBlock;
    std::int64_t query = 0;
    for (std::int64_t i = 0; i < blocks; ++i) {
      const int rows = static_cast<int>(head_.queries / blocks + (i < head_.queries % blocks ? 1 : 0));
      run_block(query, rows);
      query += rows;
    }
  }

 private:
  // One key has all the weight, whatever its score, unless that is not finite.
  void copy_value() const {
    const std::int64_t row = head_.key == nullptr ? 0 : head_.key[0];
    const float* const key = head_.k + row * head_.k_stride;
    const float* const value = head_.v + row * head_.v_stride;
    for (std::int64_t query = 0; query < head_.queries; ++query) {
      const float* const q = head_.q + query * head_.q_stride;
      float* const to = head_.out + query * head_.out_stride;
      const auto over = [&](auto per_part) TP_INLINE_LAMBDA {
        for (std::int64_t feature = 0; feature < head_.size; feature += V::kLanes) {
          const std::int64_t left = head_.size - feature;
          per_part(feature, left < V::kLanes ? static_cast<int>(left) : V::kLanes);
        }
      };
      auto sum = V::zero();
      over([&](std::int64_t feature, int count) TP_INLINE_LAMBDA {
        sum = V::fma(V::load_part(q + feature, count), V::load_part(key + feature, count), sum);
      });
      const float score = V::sum_of(sum);
      const auto weight = V::set((score - score) + 1.0F);
      over([&](std::int64_t feature, int count) TP_INLINE_LAMBDA {
        V::store_part(to + feature, V::mul(V::load_part(value + feature, count), weight), count);
      });
    }
  }

  // [panel of features][key][feature]
  void pack_values() const {
    for (std::int64_t key = 0; key < head_.keys; ++key) {
      const float* from = head_.v + (head_.key == nullptr ? key : head_.key[key]) * head_.v_stride;
      float* to = values_ + key * V::kLanes;
      std::int64_t feature = 0;
      for (; feature + V::kLanes <= head_.size; feature += V::kLanes, to += head_.keys * V::kLanes) {
        V::store(to, V::load(from + feature));
      }
      if (feature < head_.size) V::store(to, V::load_part(from + feature, static_cast<int>(head_.size - feature)));
    }
  }

  void run_block(std::int64_t query, int rows) const {
    const std::int64_t seen = head_.causal ? query + rows : head_.keys;  // by some of the rows
    const std::int64_t wide = panels_of<V>(seen) * V::kLanes;
    multiply_panels<V>(rows,
                       {head_.q + query * head_.q_stride, head_.q_stride, keys_, head_.size * V::kLanes, head_.size,
                        scores_, scores_stride_, true},
                       wide / V::kLanes);
    // One after the other for all rows, so that no row waits for the end of a chain of the one before.
    float tops[V::kBlock];
    float totals[V::kBlock];
    const auto own = [&](int row) TP_INLINE_LAMBDA { return head_.causal ? query + row + 1 : seen; };
    for (int row = 0; row < rows; ++row) tops[row] = top_of<V>(scores_ + row * scores_stride_, own(row));
    for (int row = 0; row < rows; ++row) {
      totals[row] = weigh<V>(scores_ + row * scores_stride_, own(row), wide, tops[row], head_.scale);
    }
    for (std::int64_t key = 0; key < seen; key += kKeyChunk) {
      const std::int64_t steps = seen - key < kKeyChunk ? seen - key : kKeyChunk;
      multiply_panels<V>(rows,
                         {scores_ + key, scores_stride_, values_ + key * V::kLanes, head_.keys * V::kLanes, steps,
                          sums_, wide_size_, key == 0},
                         wide_size_ / V::kLanes);
    }
    for (int row = 0; row < rows; ++row) {
      const auto factor = V::set(1.0F / totals[row]);
      const float* from = sums_ + row * wide_size_;
      float* to = head_.out + (query + row) * head_.out_stride;
      std::int64_t feature = 0;
      for (; feature + V::kLanes <= head_.size; feature += V::kLanes) {
        V::store(to + feature, V::mul(V::load(from + feature), factor));
      }
      if (feature < head_.size) {
        V::store_part(to + feature, V::mul(V::load(from + feature), factor), static_cast<int>(head_.size - feature));
      }
    }
  }

  const AttentionHead& head_;
  const std::int64_t wide_keys_;  // in whole registers
  const std::int64_t wide_size_;
  float* const keys_;    // [panel of keys][feature][key]
  float* const values_;  // [panel of features][key][feature]
  float* const scores_;  // [row][key]
  const std::int64_t scores_stride_;
  float* const sums_;  // [row][feature]
};

template <class V>
void run_attention(const AttentionHead& head, float* scratch) {
  Attention<V>(head, scratch).run();
}

}  // namespace
}  // namespace torchpool::kernels
