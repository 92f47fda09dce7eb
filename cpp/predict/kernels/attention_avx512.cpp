#include "predict/kernels/attention.h"

#if defined(__AVX512F__) && defined(__AVX512VL__)

#include "predict/kernels/attention_loops.h"
#include "predict/kernels/attention_pack.h"
#include "predict/kernels/vector_avx512.h"

namespace torchpool::kernels {

namespace {

// 12 rows by 2 vectors: 24 sums, 2 vectors of a panel and some of x in 32 registers.
struct AttentionVector16 : Vector16 {
  static constexpr int kRows = 12;
  static constexpr int kBlock = 24;
  static TP_ALWAYS_INLINE float max_of(Reg x) {
    return max_of_eight(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
  }
  static TP_ALWAYS_INLINE float sum_of(Reg x) {
    return sum_of_eight(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
  }
  static TP_ALWAYS_INLINE void pack_keys(const AttentionHead& head, float* to) { pack_by_eight<kLanes>(head, to); }
};

}  // namespace

const AttentionKernel& attention_kernel_avx512() {
  using V = AttentionVector16;
  static constexpr AttentionKernel kKernel{Isa::kAvx512, V::kLanes, V::kBlock, &run_attention<V>};
  return kKernel;
}

}  // namespace torchpool::kernels

#endif
