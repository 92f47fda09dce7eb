#include "predict/kernels/attention.h"

#if defined(__AVX2__) && defined(__FMA__)

#include "predict/kernels/attention_loops.h"
#include "predict/kernels/attention_pack.h"
#include "predict/kernels/vector_avx2.h"

namespace torchpool::kernels {

namespace {

// 6 rows by 2 vectors: 12 sums, 2 vectors of a panel and one of x in 16 registers.
struct AttentionVector8 : Vector8 {
  static constexpr int kRows = 6;
  static constexpr int kBlock = 24;
  static TP_ALWAYS_INLINE float max_of(Reg x) { return max_of_eight(x); }
  static TP_ALWAYS_INLINE float sum_of(Reg x) { return sum_of_eight(x); }
  static TP_ALWAYS_INLINE void pack_keys(const AttentionHead& head, float* to) { pack_by_eight<kLanes>(head, to); }
};

}  // namespace

const AttentionKernel& attention_kernel_avx2() {
  using V = AttentionVector8;
  static constexpr AttentionKernel kKernel{Isa::kAvx2, V::kLanes, V::kBlock, &run_attention<V>};
  return kKernel;
}

}  // namespace torchpool::kernels

#endif
