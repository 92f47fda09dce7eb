#include "predict/kernels/linear.h"

#if defined(__AVX2__) && defined(__FMA__)

#include "predict/kernels/linear_loops.h"
#include "predict/kernels/vector_avx2.h"

namespace torchpool::kernels {

namespace {

// 6 rows by 2 vectors: 12 sums, 2 vectors of weights and one of x in 16 registers.
struct LinearVector8 : Vector8 {
  static constexpr int kRows = 6;
  static constexpr int kFetchFrom = 5;
  static TP_ALWAYS_INLINE void prefetch_to_write(float* to, int count) {
    for (int i = 0; i < count; i += 16) asm volatile("prefetchw %0" ::"m"(to[i]));
  }
};

}  // namespace

const LinearKernel& linear_kernel_avx2() {
  static constexpr LinearKernel kKernel{Isa::kAvx2, 16, &run_linear<LinearVector8, Vector8>, &normalise<Vector8>};
  return kKernel;
}

}  // namespace torchpool::kernels

#endif
