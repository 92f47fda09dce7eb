#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "predict/kernels/linear.h"
#include "predict/kernels/numbers.h"

namespace torchpool::kernels {
namespace {

constexpr std::int64_t kAllRows = 250;

// A layer whose weights are stored in some way, and one in fp32 whose weights are what those become again.
struct StoredLayer {
  StoredLayer(std::int64_t outputs, std::int64_t inputs)
      : n(outputs), k(inputs), weight(numbers(n * k, 1)), bias(numbers(n, 2)), x(numbers(kAllRows * k, 3)) {
    for (float& one : weight) one /= std::sqrt(static_cast<float>(k));
  }

  std::vector<char> packed(const LinearKernel& kernel, Storage storage) const {
    std::vector<char> packed(static_cast<std::size_t>(kernel.packed_size(n, k, storage)), '\x7f');
    kernel.pack(weight.data(), k, 1, bias.data(), n, k, storage, packed.data());
    return packed;
  }

  LinearCall call(const std::vector<char>& packed, Storage storage, float* y) const {
    LinearCall call;
    call.x = x.data();
    call.x_stride = k;
    call.packed = packed.data();
    call.storage = storage;
    call.k = k;
    call.n = n;
    call.y = y;
    call.y_stride = n;
    return call;
  }

  Floats run(const LinearKernel& kernel, Storage storage, std::int64_t rows = kAllRows) const {
    const std::vector<char> stored = packed(kernel, storage);
    Floats y(static_cast<std::size_t>(rows * n), kNaN);
    kernel.run(call(stored, storage, y.data()), {0, rows}, {0, kernel.panels(n)});
    return y;
  }

  // The weights as they are after storing: what rows of the identity give, but for signs of zero.
  Floats seen(const LinearKernel& kernel, Storage storage) const {
    StoredLayer one = *this;
    std::fill(one.bias.begin(), one.bias.end(), 0.0F);
    Floats found(weight.size());
    for (std::int64_t i = 0; i < k; ++i) {
      one.x.assign(static_cast<std::size_t>(k), 0.0F);
      one.x[static_cast<std::size_t>(i)] = 1.0F;
      const Floats column = one.run(kernel, storage, 1);
      for (std::int64_t j = 0; j < n; ++j) {
        found[static_cast<std::size_t>(j * k + i)] = column[static_cast<std::size_t>(j)];
      }
    }
    return found;
  }

  std::int64_t n;
  std::int64_t k;
  Floats weight;
  Floats bias;
  Floats x;
};

std::string bytes_of(const Floats& from) {
  return {reinterpret_cast<const char*>(from.data()), from.size() * sizeof(float)};
}

std::string name_of(Storage storage) {
  switch (storage) {
    case Storage::kFp32:
      return "fp32";
    case Storage::kBf16:
      return "bf16";
    case Storage::kFp16:
      return "fp16";
    case Storage::kInt8:
      return "int8";
  }
  return "none";
}

struct StoredSizes {
  std::int64_t n;
  std::int64_t k;
};
constexpr StoredSizes kStoredSizes[] = {{100, 387}, {33, 5}, {31, 769}, {16, 1}, {7, 40}, {192, 448}};

// Of an instruction set that this processor has.
class StoredLinear : public ::testing::TestWithParam<std::tuple<Isa, Storage>> {
 protected:
  void SetUp() override {
    if (isa() > detected()) GTEST_SKIP() << "this processor has no " << kernels::name_of(isa());
  }
  static Isa isa() { return std::get<0>(GetParam()); }
  static Storage storage() { return std::get<1>(GetParam()); }
  static const LinearKernel& kernel() { return linear_kernel(isa()); }
};

TEST_P(StoredLinear, IsTheProductInFp32OverTheStoredWeights) {
  for (const auto [n, k] : kStoredSizes) {
    StoredLayer layer(n, k);
    const Floats found = layer.run(kernel(), storage());
    const Floats weights = layer.weight;
    layer.weight = layer.seen(kernel(), storage());
    EXPECT_EQ(bytes_of(found), bytes_of(layer.run(kernel(), Storage::kFp32))) << n << " x " << k;
    float largest = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      largest = std::max(largest, std::abs(weights[i] - layer.weight[i]));
    }
    // Weights are at most 1 / sqrt(k), of which this is half a step in what they are stored in.
    const float steps[] = {0, 0x1p-8F, 0x1p-11F, 1.001F / 254};
    EXPECT_LE(largest, steps[static_cast<int>(storage())] / std::sqrt(static_cast<float>(k)));
    if (k > 1) {
      EXPECT_EQ(largest > 0, storage() != Storage::kFp32);
    }
  }
}

TEST_P(StoredLinear, ARowsBitsDependNeitherOnTheOthersNorOnTheSplit) {
  for (const auto [n, k] : kStoredSizes) {
    const StoredLayer layer(n, k);
    const std::vector<char> stored = layer.packed(kernel(), storage());
    const std::int64_t panels = kernel().panels(n);
    Floats alone(static_cast<std::size_t>(kAllRows * n), kNaN);
    LinearCall call = layer.call(stored, storage(), alone.data());
    for (std::int64_t row = 0; row < kAllRows; ++row) kernel().run(call, {row, row + 1}, {0, panels});
    for (const std::int64_t rows : {2, 3, 4, 5, 6, 7, 11, 12, 13, 24, 25, 31, 36, 37, 60, 120, 130, 240, 250}) {
      Floats y(static_cast<std::size_t>(rows * n), kNaN);
      call.y = y.data();
      const std::string expected = bytes_of(Floats(alone.begin(), alone.begin() + rows * n));
      kernel().run(call, {0, rows}, {0, panels});
      ASSERT_EQ(bytes_of(y), expected) << rows << " rows of " << n << " x " << k;
      std::fill(y.begin(), y.end(), kNaN);
      kernel().run(call, {0, rows}, {0, panels / 3});
      kernel().run(call, {0, rows / 2}, {panels / 3, panels});
      kernel().run(call, {rows / 2, rows}, {panels / 3, panels});
      ASSERT_EQ(bytes_of(y), expected) << rows << " rows of " << n << " x " << k << " in parts";
    }
  }
}

TEST_P(StoredLinear, ResultsAreThoseOfAvx2) {
  if (Isa::kAvx2 > detected()) GTEST_SKIP() << "there is no other here";
  for (const auto [n, k] : kStoredSizes) {
    const StoredLayer layer(n, k);
    const Floats found = layer.run(kernel(), storage());
    const Floats others = layer.run(linear_kernel(Isa::kAvx2), storage());
    if (isa() != Isa::kPortable) {
      ASSERT_EQ(bytes_of(found), bytes_of(others)) << n << " x " << k;
    }
    for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], others[i], 1e-6);
  }
}

TEST_P(StoredLinear, WeightsOfAllMagnitudesBecomeTheNearestStored) {
  const float inputs[] = {0.0F,  1.0F,   -1.0F,           1.00390625F, 1.01171875F, 65504.0F, 65519.0F,  65520.0F,
                          3e38F, 1e-45F, 0x1p-126F,       0x1p-14F,    0x1p-15F,    0x1p-24F, 0x1p-25F,  0x1.8p-24F,
                          kInf,  -kInf,  0x1.fffffep127F, 0.1F,        -0.3F,       1234.5F,  0x1p-133F, -0x1p-134F};
  for (const float input : inputs) {
    StoredLayer layer(20, 1);
    std::fill(layer.weight.begin(), layer.weight.end(), input);
    const float found = layer.seen(kernel(), storage())[17];
    float expected = input;
    if (storage() == Storage::kBf16) {
      const auto bits = std::bit_cast<std::uint32_t>(input);
      expected = std::bit_cast<float>((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
    } else if (storage() == Storage::kFp16) {
      const double step = std::max(std::ldexp(1.0, std::ilogb(input) - 10), 0x1p-24);
      expected = static_cast<float>(std::nearbyint(static_cast<double>(input) / step) * step);
      if (std::abs(expected) > 65504) expected = std::copysign(kInf, input);
      if (input == 0 || std::isinf(input)) expected = input;
    } else if (storage() == Storage::kInt8) {
      if (std::isinf(input)) expected = kNaN;
      if (std::abs(input) < 1e-44F) expected = 0;
    }
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(found)) << input << " became " << found;
    } else if (storage() == Storage::kInt8 && !std::isinf(expected)) {
      EXPECT_NEAR(found, expected, std::abs(expected) * 1e-5F + 0x1p-126F) << input;
    } else {
      EXPECT_EQ(found, expected) << input;
    }
  }
}

TEST_P(StoredLinear, NaNStaysWithItsOutputs) {
  StoredLayer layer(40, 200);
  layer.weight[3 * 200 + 70] = kNaN;
  const Floats y = layer.run(kernel(), storage(), 20);
  for (std::size_t row = 0; row < 20; ++row) {
    for (std::size_t j = 0; j < 40; ++j) EXPECT_EQ(std::isnan(y[row * 40 + j]), j == 3) << row << ", " << j;
  }
}

TEST_P(StoredLinear, OneLargeWeightCoarsensOnlyItsGroup) {
  StoredLayer layer(20, 256);
  std::fill(layer.weight.begin(), layer.weight.end(), 0.01F);
  layer.weight[5 * 256 + 130] = 100.0F;
  const Floats seen = layer.seen(kernel(), storage());
  for (std::size_t j = 0; j < 20; ++j) {
    for (std::size_t i = 0; i < 256; ++i) {
      if (j == 5 && i / kScaled == 130 / kScaled) continue;
      EXPECT_NEAR(seen[j * 256 + i], 0.01F, 1e-4F) << j << ", " << i;
    }
  }
  EXPECT_NEAR(seen[5 * 256 + 130], 100.0F, 0.2F);
}

INSTANTIATE_TEST_SUITE_P(Each, StoredLinear,
                         testing::Combine(testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512),
                                          testing::Values(Storage::kFp32, Storage::kBf16, Storage::kFp16,
                                                          Storage::kInt8)),
                         [](const auto& one) {
                           return std::string(kernels::name_of(std::get<0>(one.param))) + "_" +
                                  name_of(std::get<1>(one.param));
                         });

}  // namespace
}  // namespace torchpool::kernels
