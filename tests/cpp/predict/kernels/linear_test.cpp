#include "predict/kernels/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "predict/kernels/numbers.h"

namespace torchpool::kernels {
namespace {

constexpr std::int64_t kMostRows = 130;
constexpr float kEps = 1e-5F;

struct Sizes {
  std::int64_t n;
  std::int64_t k;
};

// A layer with all that may follow it.
struct Layer {
  explicit Layer(Sizes sizes)
      : n(sizes.n),
        k(sizes.k),
        weight(numbers(n * k, 1)),
        bias(numbers(n, 2)),
        x(numbers(kMostRows * k, 3)),
        residual(numbers(kMostRows * n, 4)),
        gain(numbers(n, 5)),
        shift(numbers(n, 6)) {
    for (float& one : weight) one /= std::sqrt(static_cast<float>(k));
  }

  Floats packed(const LinearKernel& kernel) const {
    Floats packed(static_cast<std::size_t>(kernel.packed_size(n, k, Storage::kFp32)) / sizeof(float), kNaN);
    kernel.pack(weight.data(), k, 1, bias.data(), n, k, Storage::kFp32, packed.data());
    return packed;
  }

  LinearCall call(const Floats& packed, float* y, bool with_residual = false) const {
    LinearCall call;
    call.x = x.data();
    call.x_stride = k;
    call.packed = packed.data();
    call.k = k;
    call.n = n;
    call.y = y;
    call.y_stride = n;
    if (with_residual) call.residual = residual.data();
    call.residual_stride = n;
    return call;
  }

  std::int64_t n;
  std::int64_t k;
  Floats weight;
  Floats bias;
  Floats x;
  Floats residual;
  Floats gain;
  Floats shift;
};

double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return x;
}

// One row in double precision.
std::vector<double> expected_row(const Layer& layer, const LinearCall& call, std::int64_t row) {
  std::vector<double> y(static_cast<std::size_t>(layer.n));
  for (std::int64_t j = 0; j < layer.n; ++j) {
    double sum = layer.bias[static_cast<std::size_t>(j)];
    for (std::int64_t i = 0; i < layer.k; ++i) {
      sum += static_cast<double>(layer.x[static_cast<std::size_t>(row * layer.k + i)]) *
             static_cast<double>(layer.weight[static_cast<std::size_t>(j * layer.k + i)]);
    }
    sum = activated(call.activation, sum);
    if (call.residual != nullptr) sum += static_cast<double>(call.residual[row * layer.n + j]);
    y[static_cast<std::size_t>(j)] = sum;
  }
  if (call.norm == Norm::kNone) return y;
  const auto count = static_cast<double>(layer.n);
  double mean = 0;
  for (const double one : y) mean += one / count;
  if (call.norm == Norm::kRms) mean = 0;
  double variance = 0;
  for (const double one : y) variance += (one - mean) * (one - mean) / count;
  for (std::size_t j = 0; j < y.size(); ++j) {
    y[j] = (y[j] - mean) / std::sqrt(variance + kEps);
    if (call.gain != nullptr) y[j] *= call.gain[j];
    if (call.shift != nullptr) y[j] += call.shift[j];
  }
  return y;
}

std::string bits(const float* from, std::int64_t count) {
  return {reinterpret_cast<const char*>(from), static_cast<std::size_t>(count) * sizeof(float)};
}

// Of an instruction set that this processor has.
class Linear : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > detected()) GTEST_SKIP() << "this processor has no " << name_of(GetParam());
  }
  const LinearKernel& kernel() const { return linear_kernel(GetParam()); }
  Span all_panels(const Layer& layer) const { return {0, kernel().panels(layer.n)}; }
};

constexpr Sizes kSizes[] = {{1152, 384}, {384, 1536}, {100, 387}, {33, 5}, {31, 769}, {16, 1}, {7, 40}};
constexpr std::int64_t kRows[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,  13,  14,  15,  16,
                                  17, 18, 19, 20, 23, 24, 25, 31, 40, 60, 61, 104, 119, 120, 121, 130};
constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu, Activation::kSilu, Activation::kGelu,
                                       Activation::kGeluTanh};

TEST_P(Linear, IsWhatTheFormulaSaysWithEveryEpilogue) {
  for (const Sizes sizes : {Sizes{100, 387}, Sizes{33, 5}, Sizes{384, 800}}) {
    const Layer layer(sizes);
    const Floats packed = layer.packed(kernel());
    for (const Activation activation : kActivations) {
      for (const bool residual : {false, true}) {
        for (const Norm norm : {Norm::kNone, Norm::kLayer, Norm::kRms}) {
          Floats y(static_cast<std::size_t>(kMostRows * layer.n), kNaN);
          LinearCall call = layer.call(packed, y.data(), residual);
          call.activation = activation;
          call.norm = norm;
          call.eps = kEps;
          if (norm != Norm::kNone) call.gain = layer.gain.data();
          if (norm == Norm::kLayer) call.shift = layer.shift.data();
          kernel().run(call, {0, kMostRows}, all_panels(layer));
          for (const std::int64_t row : {0, 1, 64, 129}) {
            const auto expected = expected_row(layer, call, row);
            for (std::int64_t j = 0; j < layer.n; ++j) {
              ASSERT_NEAR(y[static_cast<std::size_t>(row * layer.n + j)], expected[static_cast<std::size_t>(j)], 4e-6)
                  << "row " << row << ", output " << j << " of " << layer.n;
            }
          }
        }
      }
    }
  }
}

TEST_P(Linear, ARowsBitsDependNeitherOnTheOthersNorOnTheSplit) {
  for (const Sizes sizes : kSizes) {
    const Layer layer(sizes);
    const Floats packed = layer.packed(kernel());
    Floats alone(static_cast<std::size_t>(kMostRows * layer.n));
    Floats y(alone.size());
    for (const Norm norm : {Norm::kNone, Norm::kLayer}) {
      LinearCall call = layer.call(packed, alone.data(), true);
      call.activation = Activation::kGelu;
      call.norm = norm;
      call.eps = kEps;
      for (std::int64_t row = 0; row < kMostRows; ++row) kernel().run(call, {row, row + 1}, all_panels(layer));
      call.y = y.data();
      for (const std::int64_t rows : kRows) {
        std::fill(y.begin(), y.end(), kNaN);
        kernel().run(call, {0, rows}, all_panels(layer));
        ASSERT_EQ(bits(y.data(), rows * layer.n), bits(alone.data(), rows * layer.n)) << rows << " rows";
        if (norm != Norm::kNone) continue;
        std::fill(y.begin(), y.end(), kNaN);
        const std::int64_t cut = all_panels(layer).end / 3;
        kernel().run(call, {0, rows}, {0, cut});
        kernel().run(call, {0, rows / 2}, {cut, all_panels(layer).end});
        kernel().run(call, {rows / 2, rows}, {cut, all_panels(layer).end});
        ASSERT_EQ(bits(y.data(), rows * layer.n), bits(alone.data(), rows * layer.n)) << rows << " rows in parts";
      }
    }
  }
}

TEST_P(Linear, ResultsAreThoseOfTheOtherInstructionSets) {
  for (const Sizes sizes : kSizes) {
    const Layer layer(sizes);
    std::vector<Floats> found;
    std::vector<Floats> finished;  // with all that may follow the sums
    for (const Isa isa : {GetParam(), Isa::kAvx2}) {
      if (isa > detected()) continue;
      const Floats packed = layer.packed(linear_kernel(isa));
      Floats& y = found.emplace_back(static_cast<std::size_t>(kMostRows * layer.n));
      linear_kernel(isa).run(layer.call(packed, y.data()), {0, kMostRows}, {0, linear_kernel(isa).panels(layer.n)});
      LinearCall call = layer.call(packed, finished.emplace_back(y.size()).data(), true);
      call.activation = Activation::kGelu;
      call.norm = Norm::kLayer;
      call.gain = layer.gain.data();
      call.eps = kEps;
      linear_kernel(isa).run(call, {0, kMostRows}, {0, linear_kernel(isa).panels(layer.n)});
    }
    if (found.size() < 2) GTEST_SKIP() << "there is no other here";
    if (GetParam() != Isa::kPortable) {
      ASSERT_EQ(bits(found[0].data(), kMostRows * layer.n), bits(found[1].data(), kMostRows * layer.n));
      ASSERT_EQ(bits(finished[0].data(), kMostRows * layer.n), bits(finished[1].data(), kMostRows * layer.n));
    }
    for (std::size_t i = 0; i < found[0].size(); ++i) ASSERT_NEAR(found[0][i], found[1][i], 1e-6);
  }
}

TEST_P(Linear, WhatIsNotFiniteStaysInItsRowAndIsWhatTheFormulaSays) {
  Layer layer({40, 20});
  std::fill(layer.weight.begin(), layer.weight.end(), 1.0F);
  std::fill(layer.bias.begin(), layer.bias.end(), 0.0F);
  const Floats packed = layer.packed(kernel());
  const float special[] = {kNaN, kInf, -kInf, 3e38F, -3e38F, 100.0F, -100.0F};
  for (const Activation activation : kActivations) {
    std::fill(layer.x.begin(), layer.x.end(), 0.0F);
    for (std::size_t i = 0; i < std::size(special); ++i) layer.x[2 * i * 20 + 3] = special[i];
    Floats y(static_cast<std::size_t>(kMostRows * layer.n));
    LinearCall call = layer.call(packed, y.data());
    call.activation = activation;
    kernel().run(call, {0, 20}, all_panels(layer));
    for (std::size_t i = 0; i < std::size(special); ++i) {
      const double expected = activated(activation, static_cast<double>(special[i]));
      for (std::size_t j = 0; j < 40; ++j) {
        const float found = y[2 * i * 40 + j];
        if (std::isnan(expected)) {
          EXPECT_TRUE(std::isnan(found)) << special[i] << " gives " << found;
        } else if (std::isinf(expected)) {
          EXPECT_EQ(static_cast<double>(found), expected) << special[i];
        } else {
          EXPECT_NEAR(static_cast<double>(found), expected, std::abs(expected) * 1e-6 + 1e-30) << special[i];
        }
        EXPECT_EQ(y[(2 * i + 1) * 40 + j], 0.0F) << "the next row";
      }
    }
  }
}

TEST_P(Linear, RowsMayLieApart) {
  const Layer layer({37, 19});
  const Floats packed = layer.packed(kernel());
  Floats y(static_cast<std::size_t>(30 * layer.n));
  kernel().run(layer.call(packed, y.data(), true), {0, 30}, all_panels(layer));
  Floats apart_x(30 * 50, kNaN);
  Floats apart_y(30 * 64, 7.0F);
  Floats apart_residual(30 * 41, kNaN);
  for (std::size_t row = 0; row < 30; ++row) {
    std::copy_n(layer.x.data() + row * 19, 19, apart_x.data() + row * 50);
    std::copy_n(layer.residual.data() + row * 37, 37, apart_residual.data() + row * 41);
  }
  LinearCall call = layer.call(packed, apart_y.data());
  call.x = apart_x.data();
  call.x_stride = 50;
  call.y_stride = 64;
  call.residual = apart_residual.data();
  call.residual_stride = 41;
  kernel().run(call, {0, 30}, all_panels(layer));
  for (std::size_t row = 0; row < 30; ++row) {
    EXPECT_EQ(bits(apart_y.data() + row * 64, 37), bits(y.data() + row * 37, 37));
    for (std::size_t j = 37; j < 64; ++j) EXPECT_EQ(apart_y[row * 64 + j], 7.0F) << "written beyond the row";
  }
}

TEST_P(Linear, PackingTakesAnyStridesAndNoBias) {
  const Layer layer({50, 400});
  Floats turned(layer.weight.size());
  for (std::size_t j = 0; j < 50; ++j) {
    for (std::size_t i = 0; i < 400; ++i) turned[i * 50 + j] = layer.weight[j * 400 + i];
  }
  Floats packed(static_cast<std::size_t>(kernel().packed_size(50, 400, Storage::kFp32)) / sizeof(float));
  kernel().pack(turned.data(), 1, 50, layer.bias.data(), 50, 400, Storage::kFp32, packed.data());
  EXPECT_EQ(packed, layer.packed(kernel()));
  kernel().pack(turned.data(), 1, 50, nullptr, 50, 400, Storage::kFp32, packed.data());
  Floats y(50);
  LinearCall call = layer.call(packed, y.data());
  const Floats zeros(400);
  call.x = zeros.data();
  kernel().run(call, {0, 1}, all_panels(layer));
  EXPECT_EQ(y, Floats(50));
}

INSTANTIATE_TEST_SUITE_P(Each, Linear, testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& one) { return std::string(name_of(one.param)); });

}  // namespace
}  // namespace torchpool::kernels
