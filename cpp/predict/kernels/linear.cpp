#include "predict/kernels/linear.h"

#include <algorithm>

namespace torchpool::kernels {

void LinearKernel::pack(const float* weight, std::int64_t output_stride, std::int64_t k_stride, const float* bias,
                        std::int64_t n, std::int64_t k, float* packed) const noexcept {
  const std::int64_t count = panels(n);
  for (std::int64_t k0 = 0; k0 < k; k0 += kChunk) {
    const std::int64_t end = std::min(k, k0 + kChunk);
    for (std::int64_t first = 0; first < count * panel; first += panel) {
      const std::int64_t width = std::min(panel, n - first);
      const float* source = weight + first * output_stride;
      for (std::int64_t i = k0; i < end; ++i, packed += panel) {
        for (std::int64_t j = 0; j < width; ++j) packed[j] = source[j * output_stride + i * k_stride];
        std::fill(packed + width, packed + panel, 0.0F);
      }
    }
  }
  std::fill(packed, packed + count * panel, 0.0F);
  if (bias != nullptr) std::copy(bias, bias + n, packed);
}

const LinearKernel& linear_kernel(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return linear_kernel_avx512();
  if (isa == Isa::kAvx2) return linear_kernel_avx2();
#endif
  static_cast<void>(isa);
  return linear_kernel_portable();
}

}  // namespace torchpool::kernels
