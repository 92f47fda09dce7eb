// Cuts a call into blocks of rows. For files of one instruction set only.
#pragma once

#include "predict/kernels/rnn_blocks.h"

namespace torchpool::kernels {
namespace {  // NOLINT(google-build-namespaces): see Note [One file an instruction set]

template <typename L, RnnKind kKind>
std::ptrdiff_t run_rows(RnnBlock block, std::ptrdiff_t vectors, float* scratch) {
  const std::ptrdiff_t rows = vectors * L::kLanes;
  block.count = rows < block.count ? rows : block.count;
  if (vectors == 1) {
    RowsBlock<L, kKind, 1>(block, scratch).run();
  } else if (vectors == 2) {
    RowsBlock<L, kKind, 2>(block, scratch).run();
  } else {
    RowsBlock<L, kKind, 3>(block, scratch).run();
  }
  return block.count;
}

// Runs some of the block's rows; returns how many. Wide vectors first; what is left over goes to narrow ones, and where
// it is less than half of a vector to lanes that are units.
template <typename Wide, typename Narrow, RnnKind kKind>
std::ptrdiff_t run_some(const RnnBlock& block, float* scratch) {
  constexpr std::ptrdiff_t kMost = 3;
  const std::ptrdiff_t left = block.count;
  if constexpr (Narrow::kLanes == 8) {
    if (left <= 5) {
      UnitsBlock<Narrow, kKind>(block, scratch).run();
      return left;
    }
    if (left <= 8) return run_rows<Narrow, kKind>(block, 1, scratch);
  }
  // A vector that is not full, unless narrower ones serve it better.
  const std::ptrdiff_t over = left % Wide::kLanes;
  const std::ptrdiff_t worthwhile = Wide::kLanes > 8 ? 9 : Wide::kLanes == 8 ? 4 : 1;
  std::ptrdiff_t vectors = left / Wide::kLanes + (over >= worthwhile ? 1 : 0);
  if (vectors == 0) vectors = 1;
  // Two and two rather than three and one, unless the three sums of a GRU's two vectors are too few to keep the
  // multipliers busy.
  constexpr bool kPairs = kKind != RnnKind::kGru || Wide::kRegisters > 16;
  if (kPairs && vectors == 4) vectors = 2;
  return run_rows<Wide, kKind>(block, vectors < kMost ? vectors : kMost, scratch);
}

template <typename Wide, typename Narrow>
void run_rnn(const RnnModel& model, const RnnCall& call, float* scratch) {
  for (std::ptrdiff_t row = 0; row < call.rows;) {
    const RnnBlock block{model, call, call.begin + row, call.rows - row};
    switch (model.kind) {
      case RnnKind::kLstm:
        row += run_some<Wide, Narrow, RnnKind::kLstm>(block, scratch);
        break;
      case RnnKind::kGru:
        row += run_some<Wide, Narrow, RnnKind::kGru>(block, scratch);
        break;
      case RnnKind::kTanh:
        row += run_some<Wide, Narrow, RnnKind::kTanh>(block, scratch);
        break;
    }
  }
}

}  // namespace
}  // namespace torchpool::kernels
