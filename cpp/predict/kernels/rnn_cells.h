// From the sums of the gates to cell and state. For files of one instruction set only.
#pragma once

#include <numbers>

#include "predict/kernels/lanes.h"
#include "predict/kernels/rnn.h"

namespace torchpool::kernels {
namespace {  // NOLINT(google-build-namespaces): see Note [One file an instruction set]

inline constexpr float kTanhScale = -2.0F * std::numbers::log2e_v<float>;

constexpr int weights_of(RnnKind kind) {
  return kind == RnnKind::kGru ? 3 : 4;
}
// Which of the 4 sums gate `gate` of the state adds to.
constexpr int sum_of_state(RnnKind kind, int gate) {
  return kind == RnnKind::kGru && gate == 2 ? 3 : gate;
}

// The update of kCount places at a time, in stages: what a stage finds is held in the places' sums until the next, so
// that several such updates can be taken through a stage one after another. `sums` has 4 vectors for each place. `at`
// tells where the values of a place are: cell(i), before(i) and after(i), the last also for each of a tanh RNN's units.
template <typename L, RnnKind kKind, int kCount>
struct Update;

template <typename L>
TP_INLINE float* sum_of(float* sums, int place, int gate) {
  return sums + (place * 4 + gate) * L::kLanes;
}

// The exponentials of two gates of all places, in the order of places for each.
template <typename L, int kCount>
TP_INLINE void exp2_of_gates(float* sums, int first, int second, typename L::Vector* e) {
  TP_UNROLL for (int i = 0; i < kCount; ++i) {
    e[i] = L::load(sum_of<L>(sums, i, first));
    e[kCount + i] = L::load(sum_of<L>(sums, i, second));
  }
  L::template exp2<2 * kCount>(e);
}

template <typename L, int kCount>
struct Update<L, RnnKind::kLstm, kCount> {
  using Vector = typename L::Vector;
  static constexpr int kStages = 3;

  template <int kStage, typename Places>
  static TP_INLINE void run(float* sums, const Places& at) {
    const Vector one = L::set(1.0F);
    Vector e[2 * kCount];
    if constexpr (kStage == 0) {
      exp2_of_gates<L, kCount>(sums, 0, 1, e);
      TP_UNROLL for (int i = 0; i < kCount; ++i) {
        L::store(sum_of<L>(sums, i, 0), L::add(one, e[i]));
        L::store(sum_of<L>(sums, i, 1), L::add(one, e[kCount + i]));
      }
    } else if constexpr (kStage == 1) {
      exp2_of_gates<L, kCount>(sums, 2, 3, e);
      TP_UNROLL for (int i = 0; i < kCount; ++i) {
        const Vector forget = L::load(sum_of<L>(sums, i, 1));
        const Vector both = L::multiply(L::load(sum_of<L>(sums, i, 0)), L::add(one, e[i]));
        const Vector kept = L::multiply(L::load(at.cell(i)), both);
        const Vector cell = L::divide(L::multiply_add(L::subtract(one, e[i]), forget, kept), L::multiply(both, forget));
        L::store(at.cell(i), cell);
        L::store(sum_of<L>(sums, i, 0), L::multiply(cell, L::set(kTanhScale)));
        L::store(sum_of<L>(sums, i, 3), L::add(one, e[kCount + i]));
      }
    } else {
      TP_UNROLL for (int i = 0; i < kCount; ++i) e[i] = L::load(sum_of<L>(sums, i, 0));
      L::template exp2<kCount>(e);
      TP_UNROLL for (int i = 0; i < kCount; ++i) {
        const Vector below = L::multiply(L::add(one, e[i]), L::load(sum_of<L>(sums, i, 3)));
        L::store(at.after(i), L::divide(L::subtract(one, e[i]), below));
      }
    }
  }
};

template <typename L, int kCount>
struct Update<L, RnnKind::kGru, kCount> {
  using Vector = typename L::Vector;
  static constexpr int kStages = 2;

  template <int kStage, typename Places>
  static TP_INLINE void run(float* sums, const Places& at) {
    const Vector one = L::set(1.0F);
    Vector e[2 * kCount];
    if constexpr (kStage == 0) {
      exp2_of_gates<L, kCount>(sums, 0, 1, e);
      TP_UNROLL for (int i = 0; i < kCount; ++i) {
        L::store(sum_of<L>(sums, i, 1), e[kCount + i]);
        const Vector of_state = L::divide(L::load(sum_of<L>(sums, i, 3)), L::add(one, e[i]));
        L::store(sum_of<L>(sums, i, 2), L::add(L::load(sum_of<L>(sums, i, 2)), of_state));
      }
    } else {
      TP_UNROLL for (int i = 0; i < kCount; ++i) e[i] = L::load(sum_of<L>(sums, i, 2));
      L::template exp2<kCount>(e);
      TP_UNROLL for (int i = 0; i < kCount; ++i) {
        const Vector update = L::load(sum_of<L>(sums, i, 1));
        const Vector over = L::add(one, e[i]);
        const Vector kept = L::multiply(L::load(at.before(i)), over);
        const Vector state = L::multiply_add(update, L::subtract(one, e[i]), kept);
        L::store(at.after(i), L::divide(state, L::multiply(L::add(one, update), over)));
      }
    }
  }
};

template <typename L, int kCount>
struct Update<L, RnnKind::kTanh, kCount> {
  using Vector = typename L::Vector;
  static constexpr int kStages = 2;  // half of the units each

  template <int kStage, typename Places>
  static TP_INLINE void run(float* sums, const Places& at) {
    const Vector one = L::set(1.0F);
    Vector e[2 * kCount];
    exp2_of_gates<L, kCount>(sums, 2 * kStage, 2 * kStage + 1, e);
    TP_UNROLL for (int i = 0; i < 2 * kCount; ++i) {
      float* const to = at.after(i % kCount, 2 * kStage + i / kCount);
      if (to != nullptr) L::store(to, L::divide(L::subtract(one, e[i]), L::add(one, e[i])));
    }
  }
};

}  // namespace
}  // namespace torchpool::kernels
