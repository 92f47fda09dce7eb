#include "predict/kernels/linear.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace torchpool::kernels {

namespace {

// To the nearest, ties to even.
std::uint16_t to_bf16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16U | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16U & 1U)) >> 16U);
}

std::uint16_t to_fp16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16U & 0x8000U;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7e00U);
  if (magnitude >= 65520.0F) return static_cast<std::uint16_t>(sign | 0x7c00U);
  if (magnitude < 0x1p-14F) {  // subnormal: so many times 2^-24
    return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(std::nearbyint(magnitude * 0x1p24F)));
  }
  const std::uint32_t kept = bits & 0x7fffffffU;
  return static_cast<std::uint16_t>(sign | ((kept + 0xfffU + (kept >> 13U & 1U)) - (112U << 23U)) >> 13U);
}

// A weight as it was given, and in which order it is stored.
struct Packer {
  const float* weight;
  std::int64_t output_stride;
  std::int64_t k_stride;
  std::int64_t n;
  std::int64_t k;
  std::int64_t panel;

  float at(std::int64_t output, std::int64_t i) const noexcept {
    return output < n ? weight[output * output_stride + i * k_stride] : 0.0F;
  }

  // store(output, i, place): of a panel's weights from k0 to `end`, in the order of places.
  template <class Store>
  void each(std::int64_t first, std::int64_t k0, std::int64_t end, Store store) const noexcept {
    for (std::int64_t i = k0; i < end; ++i) {
      for (std::int64_t j = 0; j < panel; ++j) store(first + j, i, (i - k0) * panel + j);
    }
  }

  void fp32(std::int64_t first, std::int64_t k0, std::int64_t end, char* to) const noexcept {
    auto* const stored = reinterpret_cast<float*>(to);
    each(first, k0, end, [&](std::int64_t j, std::int64_t i, std::int64_t place) { stored[place] = at(j, i); });
  }

  void bf16(std::int64_t first, std::int64_t k0, std::int64_t end, char* to) const noexcept {
    auto* const stored = reinterpret_cast<std::uint16_t*>(to);
    each(first, k0, end, [&](std::int64_t j, std::int64_t i, std::int64_t place) {
      // Neighbours are those that two registers have at the same place.
      const std::int64_t within = j - first;
      const std::int64_t paired = within < panel / 2 ? 2 * within : 2 * within - panel + 1;
      stored[place - within + paired] = to_bf16(at(j, i));
    });
  }

  void fp16(std::int64_t first, std::int64_t k0, std::int64_t end, char* to) const noexcept {
    auto* const stored = reinterpret_cast<std::uint16_t*>(to);
    each(first, k0, end,
         [&](std::int64_t j, std::int64_t i, std::int64_t place) { stored[place] = to_fp16(at(j, i)); });
  }

  void int8(std::int64_t first, std::int64_t k0, std::int64_t end, char* to) const noexcept {
    auto* scales = reinterpret_cast<float*>(to);
    auto* stored = reinterpret_cast<std::int8_t*>(scales + (end - k0 + kScaled - 1) / kScaled * panel);
    for (std::int64_t begin = k0; begin < end; begin += kScaled, scales += panel, stored += kScaled * panel) {
      const std::int64_t stop = std::min(end, begin + kScaled);
      for (std::int64_t j = 0; j < panel; ++j) scales[j] = scale_of(first + j, begin, stop);
      each(first, begin, stop, [&](std::int64_t j, std::int64_t i, std::int64_t place) {
        stored[place] = to_int8(at(j, i), scales[j - first]);
      });
    }
  }

  float scale_of(std::int64_t output, std::int64_t begin, std::int64_t end) const noexcept {
    float largest = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const float magnitude = std::fabs(at(output, i));
      if (!std::isfinite(magnitude)) return std::numeric_limits<float>::quiet_NaN();
      largest = std::max(largest, magnitude);
    }
    const float scale = largest / 127;
    return std::isinf(scale * 127) ? std::nextafter(scale, 0.0F) : scale;
  }

  static std::int8_t to_int8(float value, float scale) noexcept {
    if (std::isnan(scale)) return 1;
    if (scale == 0) return 0;
    constexpr float kWhole = 12582912.0F;  // 1.5 * 2^23: a sum with it is a whole number
    return static_cast<std::int8_t>(std::clamp(value / scale + kWhole - kWhole, -127.0F, 127.0F));
  }
};

}  // namespace

std::int64_t LinearKernel::packed_size(std::int64_t n, std::int64_t k, Storage storage) const noexcept {
  const std::int64_t outputs = panels(n) * panel;
  return size_of_panels(storage, outputs, k) + outputs * std::int64_t{sizeof(float)};
}

void LinearKernel::pack(const float* weight, std::int64_t output_stride, std::int64_t k_stride, const float* bias,
                        std::int64_t n, std::int64_t k, Storage storage, void* packed) const noexcept {
  const Packer packer{weight, output_stride, k_stride, n, k, panel};
  const std::int64_t count = panels(n);
  char* to = static_cast<char*>(packed);
  for (std::int64_t k0 = 0; k0 < k; k0 += kChunk) {
    const std::int64_t end = std::min(k, k0 + kChunk);
    for (std::int64_t first = 0; first < count * panel; first += panel) {
      switch (storage) {
        case Storage::kFp32:
          packer.fp32(first, k0, end, to);
          break;
        case Storage::kBf16:
          packer.bf16(first, k0, end, to);
          break;
        case Storage::kFp16:
          packer.fp16(first, k0, end, to);
          break;
        case Storage::kInt8:
          packer.int8(first, k0, end, to);
          break;
      }
      to += size_of_panels(storage, panel, end - k0);
    }
  }
  auto* const added = reinterpret_cast<float*>(to);
  std::fill(added, added + count * panel, 0.0F);
  if (bias != nullptr) std::copy(bias, bias + n, added);
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
