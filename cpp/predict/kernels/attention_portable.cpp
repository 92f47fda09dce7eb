#include "predict/kernels/attention.h"
#include "predict/kernels/attention_loops.h"
#include "predict/kernels/vector_portable.h"

namespace torchpool::kernels {

namespace {

struct AttentionVector4 : Vector4 {
  static constexpr int kRows = 6;
  static constexpr int kBlock = 24;
  static TP_ALWAYS_INLINE float max_of(Reg x) {
    const float first = x[0] > x[1] ? x[0] : x[1];
    const float last = x[2] > x[3] ? x[2] : x[3];
    return first > last ? first : last;
  }
  static TP_ALWAYS_INLINE float sum_of(Reg x) { return (x[0] + x[2]) + (x[1] + x[3]); }
  static void pack_keys(const AttentionHead& head, float* to) {
    for (std::int64_t first = 0; first < head.keys; first += kLanes, to += head.size * kLanes) {
      for (int i = 0; i < kLanes; ++i) {
        const std::int64_t key = first + i;
        const bool past = key >= head.keys;
        const float* from = past ? nullptr : head.k + (head.key == nullptr ? key : head.key[key]) * head.k_stride;
        for (std::int64_t feature = 0; feature < head.size; ++feature) {
          to[feature * kLanes + i] = past ? 0.0F : from[feature];
        }
      }
    }
  }
};

}  // namespace

const AttentionKernel& attention_kernel_portable() {
  using V = AttentionVector4;
  static constexpr AttentionKernel kKernel{Isa::kPortable, V::kLanes, V::kBlock, &run_attention<V>};
  return kKernel;
}

}  // namespace torchpool::kernels
