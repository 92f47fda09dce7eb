#include "predict/kernels/linear.h"
#include "predict/kernels/linear_loops.h"
#include "predict/kernels/vector_portable.h"

namespace torchpool::kernels {

namespace {

struct LinearVector4 : Vector4 {
  static constexpr int kRows = 6;
  static constexpr int kFetchFrom = 5;
  static TP_ALWAYS_INLINE void prefetch_to_write(float* to, int /*count*/) { __builtin_prefetch(to, 1, 3); }
};

}  // namespace

const LinearKernel& linear_kernel_portable() {
  static constexpr LinearKernel kKernel{Isa::kPortable, 8, &run_linear<LinearVector4, Vector4>, &normalise<Vector4>};
  return kKernel;
}

}  // namespace torchpool::kernels
