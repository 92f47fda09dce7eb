// One step of one layer, for some rows. For files of one instruction set only.
#pragma once

#include "predict/kernels/lanes.h"
#include "predict/kernels/rnn.h"
#include "predict/kernels/rnn_cells.h"

namespace torchpool::kernels {
namespace {  // NOLINT(google-build-namespaces): see Note [One file an instruction set]

constexpr int units_of_group(RnnKind kind) {
  return kind == RnnKind::kTanh ? 4 : 1;
}

// How many groups or panels are summed at once, with 4 sums each for every one of `width` vectors: as many as registers
// hold beside a weight and a value of each vector. A fourth would gain nothing: three keep the multipliers busy.
template <typename L>
constexpr int tiles(int width) {
  const int most = (L::kRegisters - 1 - width) / (4 * width);
  return most < 1 ? 1 : most > 3 ? 3 : most;
}

// What a step works on. Lanes are rows: [feature or unit][lane], with `stride` lanes. Lanes are units: [row][feature or
// unit], each with a stride of its own.
struct RnnStep {
  RnnDirection weights;
  std::ptrdiff_t inputs = 0;
  std::ptrdiff_t hidden = 0;
  const float* input = nullptr;
  const float* before = nullptr;  // the state
  float* after = nullptr;
  float* cell = nullptr;
  std::ptrdiff_t stride = 0;
};

// --- Lanes are rows.

template <typename L, int kVectors, RnnKind kKind>
struct RowPlaces {
  const RnnStep& step;
  std::ptrdiff_t group;

  TP_INLINE std::ptrdiff_t place(int i) const {
    return (group + i / kVectors) * units_of_group(kKind) * step.stride + L::kLanes * (i % kVectors);
  }
  TP_INLINE float* cell(int i) const { return step.cell + place(i); }
  TP_INLINE const float* before(int i) const { return step.before + place(i); }
  TP_INLINE float* after(int i) const { return step.after + place(i); }
  // Null behind the last unit.
  TP_INLINE float* after(int i, int unit) const {
    const bool inside = (group + i / kVectors) * 4 + unit < step.hidden;
    return inside ? step.after + place(i) + unit * step.stride : nullptr;
  }
};

// kGroups groups of units from `group` on, for kVectors vectors of rows.
template <typename L, RnnKind kKind, int kVectors, int kGroups>
TP_INLINE void rows_sums(const RnnStep& step, std::ptrdiff_t group, float* held) {
  using Vector = typename L::Vector;
  constexpr int kWeights = weights_of(kKind);
  const std::ptrdiff_t next_group = (step.inputs + step.hidden) * kWeights;
  Vector sums[kGroups][4][kVectors];
  TP_UNROLL for (int g = 0; g < kGroups; ++g) {
    TP_UNROLL for (int q = 0; q < 4; ++q) {
      const Vector bias = L::broadcast(step.weights.unit_bias + (group + g) * 4 + q);
      TP_UNROLL for (int n = 0; n < kVectors; ++n) sums[g][q][n] = bias;
    }
  }
  const float* weights = step.weights.by_unit + group * next_group;
  const float* values = step.input;
  for (std::ptrdiff_t k = 0; k < step.inputs; ++k) {
    Vector x[kVectors];
    TP_UNROLL for (int n = 0; n < kVectors; ++n) x[n] = L::load(values + L::kLanes * n);
    TP_UNROLL for (int g = 0; g < kGroups; ++g) {
      TP_UNROLL for (int q = 0; q < kWeights; ++q) {
        const Vector weight = L::broadcast(weights + g * next_group + q);
        TP_UNROLL for (int n = 0; n < kVectors; ++n) sums[g][q][n] = L::multiply_add(weight, x[n], sums[g][q][n]);
      }
    }
    values += step.stride;
    weights += kWeights;
  }
  values = step.before;
  for (std::ptrdiff_t k = 0; k < step.hidden; ++k) {
    Vector h[kVectors];
    TP_UNROLL for (int n = 0; n < kVectors; ++n) h[n] = L::load(values + L::kLanes * n);
    TP_UNROLL for (int g = 0; g < kGroups; ++g) {
      TP_UNROLL for (int q = 0; q < kWeights; ++q) {
        const Vector weight = L::broadcast(weights + g * next_group + q);
        const int s = sum_of_state(kKind, q);
        TP_UNROLL for (int n = 0; n < kVectors; ++n) sums[g][s][n] = L::multiply_add(weight, h[n], sums[g][s][n]);
      }
    }
    values += step.stride;
    weights += kWeights;
  }
  TP_UNROLL for (int g = 0; g < kGroups; ++g) {
    TP_UNROLL for (int n = 0; n < kVectors; ++n) {
      TP_UNROLL for (int q = 0; q < 4; ++q) L::store(sum_of<L>(held, g * kVectors + n, q), sums[g][q][n]);
    }
  }
}

template <typename L, RnnKind kKind, int kVectors, int kStage>
TP_INLINE void rows_stage(const RnnStep& step, std::ptrdiff_t group, std::ptrdiff_t count, float* held) {
  if constexpr (kStage < Update<L, kKind, kVectors>::kStages) {
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      const RowPlaces<L, kVectors, kKind> places{step, group + i};
      Update<L, kKind, kVectors>::template run<kStage>(held + i * kVectors * 4 * L::kLanes, places);
    }
    rows_stage<L, kKind, kVectors, kStage + 1>(step, group, count, held);
  }
}

template <typename L, RnnKind kKind, int kVectors>
void rows_step(const RnnStep& step) {
  constexpr int kGroups = tiles<L>(kVectors);
  // Updated together, stage by stage: within one place each result waits for the one before it. That saves 12 % of an
  // LSTM's time and 18 % of a GRU's. The sums go through memory anyway: where their address is taken they would not
  // stay in registers while they are summed.
  constexpr int kTogetherVectors = 12;
  constexpr int kTogether = kTogetherVectors / kVectors / kGroups * kGroups;
  alignas(64) float held[kTogether * kVectors * 4 * L::kLanes];
  const std::ptrdiff_t groups = (step.hidden + units_of_group(kKind) - 1) / units_of_group(kKind);
  for (std::ptrdiff_t first = 0; first < groups; first += kTogether) {
    const std::ptrdiff_t count = groups - first < kTogether ? groups - first : kTogether;
    std::ptrdiff_t i = 0;
    for (; i + kGroups <= count; i += kGroups) {
      rows_sums<L, kKind, kVectors, kGroups>(step, first + i, held + i * kVectors * 4 * L::kLanes);
    }
    for (; i < count; ++i) rows_sums<L, kKind, kVectors, 1>(step, first + i, held + i * kVectors * 4 * L::kLanes);
    rows_stage<L, kKind, kVectors, 0>(step, first, count, held);
  }
}

// --- Lanes are units.

// Strides of rows, and the rows' inputs, which may lie anywhere.
struct FewRows {
  const float* const* input;
  std::ptrdiff_t state;  // of before and after
  std::ptrdiff_t cell;
};

template <int kRows, RnnKind kKind>
struct UnitPlaces {
  const RnnStep& step;
  const FewRows& rows;
  std::ptrdiff_t panel;

  TP_INLINE std::ptrdiff_t unit(int i) const { return (panel + i / kRows) * 8 * units_of_group(kKind); }
  TP_INLINE float* cell(int i) const { return step.cell + i % kRows * rows.cell + unit(i); }
  TP_INLINE const float* before(int i) const { return step.before + i % kRows * rows.state + unit(i); }
  TP_INLINE float* after(int i) const { return step.after + i % kRows * rows.state + unit(i); }
  TP_INLINE float* after(int i, int eight) const {
    return unit(i) + 8 * eight < step.hidden ? after(i) + 8 * eight : nullptr;
  }
};

template <typename L, RnnKind kKind, int kCount, int kStage, typename Places>
TP_INLINE void units_stage(float* held, const Places& at) {
  if constexpr (kStage < Update<L, kKind, kCount>::kStages) {
    Update<L, kKind, kCount>::template run<kStage>(held, at);
    units_stage<L, kKind, kCount, kStage + 1>(held, at);
  }
}

// kPanels panels from `panel` on, for kRows rows. L has 8 lanes.
template <typename L, RnnKind kKind, int kRows, int kPanels>
TP_INLINE void units_panel(const RnnStep& step, const FewRows& rows, std::ptrdiff_t panel) {
  using Vector = typename L::Vector;
  constexpr std::ptrdiff_t kWeights = weights_of(kKind);
  const std::ptrdiff_t next_panel = (step.inputs + step.hidden) * kWeights * 8;
  Vector sums[kPanels][4][kRows];
  TP_UNROLL for (std::ptrdiff_t p = 0; p < kPanels; ++p) {
    TP_UNROLL for (std::ptrdiff_t q = 0; q < 4; ++q) {
      const Vector bias = L::load(step.weights.panel_bias + (panel + p) * 32 + q * 8);
      TP_UNROLL for (std::ptrdiff_t m = 0; m < kRows; ++m) sums[p][q][m] = bias;
    }
  }
  const float* weights = step.weights.by_panel + panel * next_panel;
  for (std::ptrdiff_t k = 0; k < step.inputs; ++k) {
    Vector x[kRows];
    TP_UNROLL for (std::ptrdiff_t m = 0; m < kRows; ++m) x[m] = L::broadcast(rows.input[m] + k);
    TP_UNROLL for (std::ptrdiff_t p = 0; p < kPanels; ++p) {
      TP_UNROLL for (std::ptrdiff_t q = 0; q < kWeights; ++q) {
        const Vector weight = L::load(weights + p * next_panel + 8 * q);
        TP_UNROLL for (std::ptrdiff_t m = 0; m < kRows; ++m) sums[p][q][m] =
            L::multiply_add(weight, x[m], sums[p][q][m]);
      }
    }
    weights += kWeights * 8;
  }
  for (std::ptrdiff_t k = 0; k < step.hidden; ++k) {
    Vector h[kRows];
    TP_UNROLL for (std::ptrdiff_t m = 0; m < kRows; ++m) h[m] = L::broadcast(step.before + m * rows.state + k);
    TP_UNROLL for (std::ptrdiff_t p = 0; p < kPanels; ++p) {
      TP_UNROLL for (std::ptrdiff_t q = 0; q < kWeights; ++q) {
        const Vector weight = L::load(weights + p * next_panel + 8 * q);
        const int s = sum_of_state(kKind, static_cast<int>(q));
        TP_UNROLL for (std::ptrdiff_t m = 0; m < kRows; ++m) sums[p][s][m] =
            L::multiply_add(weight, h[m], sums[p][s][m]);
      }
    }
    weights += kWeights * 8;
  }
  alignas(64) float held[kPanels * kRows * 4 * 8];
  TP_UNROLL for (std::ptrdiff_t p = 0; p < kPanels; ++p) {
    TP_UNROLL for (std::ptrdiff_t m = 0; m < kRows; ++m) {
      TP_UNROLL for (std::ptrdiff_t q = 0; q < 4; ++q) L::store(held + ((p * kRows + m) * 4 + q) * 8, sums[p][q][m]);
    }
  }
  units_stage<L, kKind, kPanels * kRows, 0>(held, UnitPlaces<kRows, kKind>{step, rows, panel});
}

template <typename L, RnnKind kKind, int kRows>
void units_step(const RnnStep& step, const FewRows& rows) {
  constexpr int kPanels = tiles<L>(kRows);
  constexpr int kUnits = 8 * units_of_group(kKind);
  const std::ptrdiff_t panels = (step.hidden + kUnits - 1) / kUnits;
  std::ptrdiff_t panel = 0;
  for (; panel + kPanels <= panels; panel += kPanels) units_panel<L, kKind, kRows, kPanels>(step, rows, panel);
  const std::ptrdiff_t left = panels - panel;
  if constexpr (kPanels > 2) {
    if (left == 2) return units_panel<L, kKind, kRows, 2>(step, rows, panel);
  }
  if constexpr (kPanels > 1) {
    if (left == 1) units_panel<L, kKind, kRows, 1>(step, rows, panel);
  }
}

}  // namespace
}  // namespace torchpool::kernels
