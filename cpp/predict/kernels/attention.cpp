#include "predict/kernels/attention.h"

namespace torchpool::kernels {

const AttentionKernel& attention_kernel(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return attention_kernel_avx512();
  if (isa == Isa::kAvx2) return attention_kernel_avx2();
#endif
  static_cast<void>(isa);
  return attention_kernel_portable();
}

}  // namespace torchpool::kernels
