#include "predict/kernels/linear.h"

#if defined(__AVX512F__) && defined(__AVX512VL__)

#include "predict/kernels/linear_loops.h"
#include "predict/kernels/vector_avx2.h"
#include "predict/kernels/vector_avx512.h"

namespace torchpool::kernels {

namespace {

// 12 rows by 2 vectors: 24 sums, 2 vectors of weights and some of x in 32 registers.
struct LinearVector16 : Vector16 {
  static constexpr int kRows = 12;
  static constexpr int kFetchFrom = 5;
  static TP_ALWAYS_INLINE void prefetch_to_write(float* to, int count) {
    for (int i = 0; i < count; i += 16) asm volatile("prefetchw %0" ::"m"(to[i]));
  }
};

}  // namespace

// Rows are normalised by eight lanes: their sums are then those of AVX2.
const LinearKernel& linear_kernel_avx512() {
  static constexpr LinearKernel kKernel{Isa::kAvx512, 32, &run_linear<LinearVector16, Vector8>, &normalise<Vector8>};
  return kKernel;
}

}  // namespace torchpool::kernels

#endif
