// The product itself, for the vectors of an instruction set. See Notes [One file an instruction set] and [One order of
// summing].
#pragma once

#include <cstdint>
#include <utility>

#include "predict/kernels/linear.h"
#include "predict/kernels/linear_epilogue.h"
#include "predict/kernels/linear_weights.h"
#include "predict/kernels/vector.h"

namespace torchpool::kernels {
namespace {

// Some rows by one or more neighbouring panels, over a chunk of k.
struct Tile {
  const float* x;
  std::int64_t x_stride;
  const char* weights;
  std::int64_t panel_size;  // bytes from one panel to the next
  const char* ahead;        // what is fetched meanwhile
  std::int64_t ahead_step;  // bytes from one fetched line to the next
  std::int64_t k;
  const float* bias;
  float* y;
  std::int64_t y_stride;
  int width;   // outputs, where the panel is not full
  bool first;  // y is written, else added to
  bool last;   // the bias is added
};

TP_ALWAYS_INLINE std::int64_t least(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}

// A panel is two vectors. kVectors: of all panels of the tile. kLines: of 64 bytes that are fetched ahead every four k.
// Evenly: in a burst they would fill the buffers of misses and stall the tile. Indices of sums are constants for the
// front end, since gcc 12 spills sums that are indexed otherwise.
template <class V, class W, int kVectors, int kLines, bool kPart, int... kRow, int... kSum>
TP_ALWAYS_INLINE void compute(std::integer_sequence<int, kRow...> /*rows*/,
                              std::integer_sequence<int, kSum...> /*sums*/, const Tile& tile) {
  using Reg = typename V::Reg;
  constexpr int kRows = sizeof...(kRow);
  constexpr std::int64_t kPanel = 2 * V::kLanes;
  // Few tiles of rows would find that the next weights have pushed the present ones out of the first-level cache.
  constexpr int kNear = kLines < kPanel * std::int64_t{sizeof(typename W::Element)} / 32 ? 3 : 2;
  const std::int64_t stride = tile.x_stride;
  const float* x0 = tile.x;
  const float* x3 = x0 + 3 * stride;
  const float* x6 = x0 + 6 * stride;
  const float* x9 = x0 + 9 * stride;
  const StoredPanel<W> stored0(tile.weights, kPanel, tile.k);
  const StoredPanel<W> stored1(tile.weights + tile.panel_size, kPanel, tile.k);
  const StoredPanel<W> stored2(tile.weights + 2 * tile.panel_size, kPanel, tile.k);
  const StoredPanel<W> stored3(tile.weights + 3 * tile.panel_size, kPanel, tile.k);
  const auto* w0 = stored0.weights;
  const auto* w1 = stored1.weights;
  const auto* w2 = stored2.weights;
  const auto* w3 = stored3.weights;
  std::int64_t scaled = 0;  // where the scales of the present group lie
  const char* ahead = tile.ahead;
  float* const y = tile.y;
  // The lines of the result, long before they are written.
  if constexpr (!kPart) (V::prefetch_to_write(y + kRow * tile.y_stride, kVectors * V::kLanes), ...);
  Reg sums[kRows * kVectors];
  ((sums[kSum] = V::zero()), ...);
  const auto step = [&](auto offset) TP_INLINE_LAMBDA {
    constexpr std::int64_t kStep = decltype(offset)::value;
    Reg w[kVectors];
    Reg x[kRows];
    const auto fill = [&](auto place, const auto* panel, const float* scales) TP_INLINE_LAMBDA {
      constexpr int kPlace = decltype(place)::value;
      W::read(panel + kStep * kPanel, scales + scaled, w[kPlace], w[kPlace + 1]);
    };
    fill(std::integral_constant<int, 0>(), w0, stored0.scales);
    if constexpr (kVectors >= 4) fill(std::integral_constant<int, 2>(), w1, stored1.scales);
    if constexpr (kVectors >= 8) {
      fill(std::integral_constant<int, 4>(), w2, stored2.scales);
      fill(std::integral_constant<int, 6>(), w3, stored3.scales);
    }
    if constexpr (kLines > 0 && (kLines >= 4 || kStep % (4 / kLines) == 0)) {
      for (int i = 0; i < (kLines + 3) / 4; ++i, ahead += tile.ahead_step) __builtin_prefetch(ahead, 0, kNear);
    }
    ((kSum % kVectors == 0
          ? void(x[kSum / kVectors] = V::set(((kSum / kVectors < 3)   ? x0
                                              : (kSum / kVectors < 6) ? x3
                                              : (kSum / kVectors < 9) ? x6
                                                                      : x9)[(kSum / kVectors % 3) * stride + kStep]))
          : void(),
      V::add_product(sums[kSum], x[kSum / kVectors], w[kSum % kVectors])),
     ...);
  };
  const auto move = [&](std::int64_t steps) TP_INLINE_LAMBDA {
    x0 += steps;
    if constexpr (kRows > 3) x3 += steps;
    if constexpr (kRows > 6) x6 += steps;
    if constexpr (kRows > 9) x9 += steps;
    w0 += steps * kPanel;
    if constexpr (kVectors >= 4) w1 += steps * kPanel;
    if constexpr (kVectors >= 8) {
      w2 += steps * kPanel;
      w3 += steps * kPanel;
    }
  };
  for (std::int64_t left = tile.k; left > 0; left -= W::kGroup, scaled += kPanel) {
    std::int64_t k = least(left, W::kGroup);
    for (; k >= 4; k -= 4) {
      step(std::integral_constant<int, 0>());
      step(std::integral_constant<int, 1>());
      step(std::integral_constant<int, 2>());
      step(std::integral_constant<int, 3>());
      move(4);
    }
    for (; k > 0; --k) {
      step(std::integral_constant<int, 0>());
      move(1);
    }
  }
  const auto finish_sum = [&](auto index) TP_INLINE_LAMBDA {
    constexpr int kIndex = decltype(index)::value;
    constexpr int kOutput = kIndex % kVectors * V::kLanes;
    float* const to = y + kIndex / kVectors * tile.y_stride + kOutput;
    Reg sum = sums[kIndex];
    if (!tile.first) sum = V::add(sum, kPart ? V::load_part(to, tile.width - kOutput) : V::load(to));
    if (tile.last) sum = V::add(sum, V::load(tile.bias + kOutput));
    if constexpr (kPart) {
      V::store_part(to, sum, tile.width - kOutput);
    } else {
      V::store(to, sum);
    }
  };
  (finish_sum(std::integral_constant<int, kSum>()), ...);
}

template <class V, class W, int kRows, int kVectors, int kLines, bool kPart = false>
__attribute__((noinline)) void compute_tile(const Tile& tile) {
  compute<V, W, kVectors, kLines, kPart>(std::make_integer_sequence<int, kRows>(),
                                         std::make_integer_sequence<int, kRows * kVectors>(), tile);
}

// Of up to V::kRows rows and one panel.
template <class V, class W, int kLines, bool kPart = false, int kRows = V::kRows>
TP_ALWAYS_INLINE void compute_rows(int rows, const Tile& tile) {
  if (rows == kRows) return compute_tile<V, W, kRows, 2, kLines, kPart>(tile);
  if constexpr (kRows > 1) compute_rows<V, W, kLines, kPart, kRows - 1>(rows, tile);
}

// One product over a chunk of k, for rows that stay in the second-level cache.
template <class V, class W>
class Chunk {
 public:
  static constexpr int kPanel = 2 * V::kLanes;

  Chunk(const LinearCall& call, Span rows, std::int64_t k0)
      : call_(call),
        rows_(rows),
        k0_(k0),
        steps_(least(kChunk, call.k - k0)),
        panels_((call.n + kPanel - 1) / kPanel),
        full_(call.n / kPanel),
        panel_size_(size_of_panels(W::kStorage, kPanel, steps_)),
        weights_(static_cast<const char*>(call.packed) + size_of_panels(W::kStorage, panels_ * kPanel, k0)),
        bias_(reinterpret_cast<const float*>(static_cast<const char*>(call.packed) +
                                             size_of_panels(W::kStorage, panels_ * kPanel, call.k))) {}

  void run(Span panels) const {
    const std::int64_t count = rows_.end - rows_.begin;
    const std::int64_t full = least(panels.end, full_);
    std::int64_t panel = panels.begin;
    // Few rows keep too few sums to hide the latency of a product: neighbouring panels together.
    if (count == 1) panel = together<1, 8>(panel, full);
    if (count == 2) panel = together<2, 4>(panel, full);
    if (count == 3) panel = together<3, 4>(panel, full);
    const std::int64_t tiles = (count + V::kRows - 1) / V::kRows;
    if constexpr (W::kOnceFrom > 0) {
      if (tiles >= W::kOnceFrom) return widened_once(panels, tiles);
    }
    constexpr int kLines = at_least_one(kPanel * int{sizeof(typename W::Element)} / 16);  // of a panel's four k
    if (count < V::kFetchFrom) {
      groups<0>(panel, full, tiles);
    } else if (tiles == 1) {
      groups<kLines>(panel, full, tiles);
    } else if (tiles < 4) {
      groups<at_least_one(kLines / 2)>(panel, full, tiles);
    } else if constexpr (W::kOnceFrom == 0) {
      if (kLines < 8 || tiles < 8) {
        groups<at_least_one(kLines / 4)>(panel, full, tiles);
      } else {
        groups<1>(panel, full, tiles);
      }
    }
    if (panels.end > full_) last_panel(tiles);
  }

 private:
  static constexpr int at_least_one(int lines) { return lines < 1 ? 1 : lines; }

  Tile tile(std::int64_t row, std::int64_t panel) const {
    Tile tile{};
    tile.x = call_.x + row * call_.x_stride + k0_;
    tile.x_stride = call_.x_stride;
    tile.weights = weights_ + panel * panel_size_;
    tile.panel_size = panel_size_;
    tile.k = steps_;
    tile.bias = bias_ + panel * kPanel;
    tile.y = call_.y + row * call_.y_stride + panel * kPanel;
    tile.y_stride = call_.y_stride;
    tile.width = static_cast<int>(least(kPanel, call_.n - panel * kPanel));
    tile.first = k0_ == 0;
    tile.last = k0_ + steps_ == call_.k;
    return tile;
  }

  // Here the processor's own fetching ahead is better. Returns the panel that comes next.
  template <int kRows, int kVectors>
  std::int64_t together(std::int64_t panel, std::int64_t end) const {
    for (; panel + kVectors / 2 <= end; panel += kVectors / 2) {
      const Tile one = tile(rows_.begin, panel);
      compute_tile<V, W, kRows, kVectors, 0>(one);
      if (one.last) finish<V>(call_, rows_.begin, kRows, panel * kPanel, kVectors * V::kLanes);
    }
    return panel;
  }

  // How many rows the i-th tile has: they are even.
  int rows_of(std::int64_t i, std::int64_t tiles) const {
    const std::int64_t count = rows_.end - rows_.begin;
    return static_cast<int>(count / tiles + (i < count % tiles ? 1 : 0));
  }

  // Panels in groups that all rows pass, so that rows stay in the first-level cache for a group. Each tile of rows
  // fetches its share of the next group's weights.
  template <int kLines>
  void groups(std::int64_t panel, std::int64_t end, std::int64_t tiles) const {
    for (std::int64_t group = 0; panel < end; panel += group) {
      group = least(tiles < 4 ? 1 : 4, end - panel);
      std::int64_t row = rows_.begin;
      for (std::int64_t i = 0; i < tiles; ++i) {
        const int own = rows_of(i, tiles);
        Tile one{};
        for (std::int64_t j = 0; j < group; ++j) {
          one = tile(row, panel + j);
          if constexpr (kLines > 0) fetch<kLines>(one, one.weights + group * panel_size_, i, tiles);
          compute_rows<V, W, kLines>(own, one);
        }
        if (one.last) finish<V>(call_, row, own, panel * kPanel, static_cast<int>(group * kPanel));
        row += own;
      }
    }
  }

  // The i-th tile of rows fetches its share of a panel.
  template <int kLines>
  void fetch(Tile& one, const char* panel, std::int64_t i, std::int64_t tiles) const {
    one.ahead = panel + i * panel_size_ / tiles;
    one.ahead_step = 4 * std::int64_t{kPanel} * std::int64_t{sizeof(typename W::Element)} / (kLines * tiles);
  }

  // Each panel in fp32, for all rows.
  void widened_once(Span panels, std::int64_t tiles) const {
    using Wide = Weights<V, Storage::kFp32>;
    alignas(64) float buffer[kChunk * kPanel];
    for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
      widen_panel<V, W>(weights_ + panel * panel_size_, steps_, buffer);
      std::int64_t row = rows_.begin;
      for (std::int64_t i = 0; i < tiles; ++i) {
        const int own = rows_of(i, tiles);
        Tile one = tile(row, panel);
        fetch<1>(one, one.weights + panel_size_, i, tiles);
        one.weights = reinterpret_cast<const char*>(buffer);
        if (panel < full_) {
          compute_rows<V, Wide, 1>(own, one);
        } else {
          compute_rows<V, Wide, 0, true>(own, one);
        }
        if (one.last) finish<V>(call_, row, own, panel * kPanel, one.width);
        row += own;
      }
    }
  }

  void last_panel(std::int64_t tiles) const {
    std::int64_t row = rows_.begin;
    for (std::int64_t i = 0; i < tiles; ++i) {
      const int own = rows_of(i, tiles);
      const Tile one = tile(row, full_);
      compute_rows<V, W, 0, true>(own, one);
      if (one.last) finish<V>(call_, row, own, full_ * kPanel, one.width);
      row += own;
    }
  }

  const LinearCall& call_;
  const Span rows_;
  const std::int64_t k0_;
  const std::int64_t steps_;
  const std::int64_t panels_;
  const std::int64_t full_;
  const std::int64_t panel_size_;  // bytes
  const char* const weights_;
  const float* const bias_;
};

// V: the vectors of the product and the activation; Row: those that a row is normalised with.
template <class V, class Row, Storage kStorage>
void run_stored(const LinearCall& call, Span rows, Span panels) {
  using Part = Chunk<V, Weights<V, kStorage>>;
  // Rows. More would widen stored weights less often, but push each other out of the cache where they lie a power of
  // two apart.
  constexpr std::int64_t kBlock = 120;
  const bool whole = panels.begin == 0 && panels.end * Part::kPanel >= call.n;
  const std::int64_t count = rows.end - rows.begin;
  const std::int64_t blocks = (count + kBlock - 1) / kBlock;
  std::int64_t begin = rows.begin;
  for (std::int64_t i = 0; i < blocks; ++i) {
    const Span block{begin, begin + count / blocks + (i < count % blocks ? 1 : 0)};
    for (std::int64_t k0 = 0; k0 < call.k; k0 += kChunk) Part(call, block, k0).run(panels);
    if (whole && call.norm != Norm::kNone) normalise<Row>(call, block);
    begin = block.end;
  }
}

template <class V, class Row>
void run_linear(const LinearCall& call, Span rows, Span panels) {
  switch (call.storage) {
    case Storage::kFp32:
      return run_stored<V, Row, Storage::kFp32>(call, rows, panels);
    case Storage::kBf16:
      return run_stored<V, Row, Storage::kBf16>(call, rows, panels);
    case Storage::kFp16:
      return run_stored<V, Row, Storage::kFp16>(call, rows, panels);
    case Storage::kInt8:
      return run_stored<V, Row, Storage::kInt8>(call, rows, panels);
  }
}

}  // namespace
}  // namespace torchpool::kernels
