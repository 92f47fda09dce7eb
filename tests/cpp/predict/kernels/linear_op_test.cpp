#include "predict/kernels/linear_op.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "predict/kernels/weight_arena.h"

namespace torchpool::kernels {
namespace {

at::Tensor plain(const at::Tensor& x, const at::Tensor& packed, std::int64_t outputs,
                 const std::optional<at::Tensor>& residual = {}, std::string_view norm = "none") {
  return linear(x, packed, outputs, "none", residual, norm, {}, {}, 1e-5);
}

// The threads of ATen's own operators, as before when it ends.
class Threads {
 public:
  explicit Threads(int count) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_ = at::get_num_threads();
};

TEST(LinearOp, IsTheProductOfInputsOfAnyShapeAndStrides) {
  const at::Tensor weight = at::randn({40, 24});
  const at::Tensor bias = at::randn({40});
  const at::Tensor packed = pack_linear(weight, bias, false);
  EXPECT_TRUE(at::equal(packed, pack_linear(weight.t().contiguous(), bias, true)));
  EXPECT_TRUE(at::equal(packed, pack_linear(weight.t(), bias, true)));
  const std::vector<at::Tensor> inputs = {
      at::randn({24}),
      at::randn({1, 24}),
      at::randn({7, 24}),
      at::randn({2, 3, 24}),
      at::randn({2, 3, 100}).narrow(2, 50, 24),  // rows lie apart
      at::randn({2, 9, 24}).narrow(1, 2, 5),     // some of them
      at::randn({3, 2, 24}).transpose(0, 1),     // not equally far
      at::randn({5, 24, 3}).transpose(1, 2),     // columns
      at::randn({24}).expand({6, 24}),           // one row many times
      at::randn({4, 1, 24}).expand({4, 3, 24}),  // each three times
      at::randn({0, 24}),
      at::randn({2, 1, 5, 24}).permute({1, 0, 2, 3}),
  };
  for (const at::Tensor& x : inputs) {
    const at::Tensor y = plain(x, packed, 40);
    EXPECT_EQ(y.sizes(), at::linear(x, weight, bias).sizes());
    EXPECT_TRUE(at::allclose(y, at::linear(x, weight, bias), 1e-5, 1e-5)) << x.sizes() << x.strides();
  }
}

TEST(LinearOp, AResidualMayHaveOtherStrides) {
  const at::Tensor weight = at::randn({40, 24});
  const at::Tensor packed = pack_linear(weight, {}, false);
  const at::Tensor x = at::randn({6, 24});
  for (const at::Tensor& residual : {at::randn({6, 40}), at::randn({40, 6}).t(), at::randn({6, 90}).narrow(1, 3, 40)}) {
    EXPECT_TRUE(at::allclose(plain(x, packed, 40, residual), at::linear(x, weight) + residual, 1e-5, 1e-5));
  }
}

TEST(LinearOp, ThreadsChangeNoBit) {
  for (const std::int64_t rows : {1, 2, 13, 47, 48, 200}) {
    const at::Tensor weight = at::randn({1000, 700});
    const at::Tensor packed = pack_linear(weight, {}, false);
    const at::Tensor x = at::randn({rows, 700});
    for (const char* norm : {"none", "layer"}) {
      at::Tensor one;
      {
        const Threads threads(1);
        one = plain(x, packed, 1000, {}, norm);
      }
      for (const int count : {2, 3}) {
        const Threads threads(count);
        EXPECT_TRUE(at::equal(plain(x, packed, 1000, {}, norm), one)) << rows << " rows, " << count << " threads";
      }
    }
  }
}

TEST(LinearOp, TheStorageIsToldByTheDtypeOfWhatWasPacked) {
  const at::Tensor weight = at::randn({40, 100});
  const at::Tensor bias = at::randn({40});
  const at::Tensor x = at::randn({17, 100});
  const at::Tensor exact = at::linear(x, weight, bias);
  const std::tuple<const char*, at::ScalarType, double> kinds[] = {
      {"fp32", at::kFloat, 1e-6}, {"bf16", at::kBFloat16, 1e-2}, {"fp16", at::kHalf, 1e-3}, {"int8", at::kChar, 2e-2}};
  for (const auto& [storage, dtype, bound] : kinds) {
    const at::Tensor packed = pack_linear(weight, bias, false, storage);
    EXPECT_EQ(packed.scalar_type(), dtype);
    const at::Tensor turned = pack_linear(weight.t(), bias, true, storage);
    EXPECT_TRUE(at::equal(packed.view(at::kByte), turned.view(at::kByte))) << storage;
    const at::Tensor y = plain(x, packed, 40);
    EXPECT_LT((y - exact).norm().item<double>(), bound * exact.norm().item<double>()) << storage;
    if (dtype == at::kBFloat16 || dtype == at::kHalf) {
      EXPECT_TRUE(at::allclose(y, at::linear(x, weight.to(dtype).to(at::kFloat), bias), 1e-5, 1e-5)) << storage;
    }
  }
}

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "none";
}

TEST(LinearOp, WhatDoesNotFitIsSaid) {
  const at::Tensor packed = pack_linear(at::randn({40, 24}), {}, false);
  const at::Tensor x = at::randn({6, 24});
  const auto said = [](const std::string& error, const char* text) {
    EXPECT_NE(error.find(text), std::string::npos) << error;
  };
  said(error_of([&] { plain(at::randn({6, 25}), packed, 40); }), "an input of [6, 25] does not fit a weight of 40");
  said(error_of([&] { plain(x, packed, 400); }), "does not fit a weight of 400 outputs");
  said(error_of([&] { plain(x.to(at::kDouble), packed, 40); }), "expected the input to be a strided tensor of float32");
  said(error_of([&] { plain(x, packed, 40, at::randn({1, 40})); }), "expected a residual of [6, 40], got [1, 40]");
  said(error_of([&] { plain(x, packed, 40, {}, "batch"); }), "norm 'batch': expected none, layer or rms");
  said(error_of([&] { linear(x, packed, 40, "swish", {}, "none", {}, {}, 0); }), "activation 'swish'");
  said(error_of([&] { linear(x, packed, 40, "none", {}, "rms", at::ones({39}), {}, 0); }), "of [40], got [39]");
  said(error_of([&] { plain(x, at::ones({960}, at::kLong), 40); }),
       "to be what torchpool::pack_linear gives, got Long");
  said(error_of([&] { plain(x, packed.to(at::kHalf), 40); }), "does not fit a weight of 40");
  said(error_of([] { pack_linear(at::randn({4, 4}), {}, false, "int4"); }), "expected fp32, bf16, fp16 or int8");
  said(error_of([] { pack_linear(at::randn({4}), {}, false); }), "expected a matrix, got [4]");
}

TEST(WeightArena, LaysWeightsSideBySideForAsLongAsAnyLives) {
  constexpr std::int64_t kFloats = (1 << 16) + 3;
  at::Tensor first;
  at::Tensor second;
  {
    const WeightArena arena;
    first = WeightArena::allocate(kFloats).fill_(1);
    second = WeightArena::allocate(kFloats).fill_(2);
    const at::Tensor large = WeightArena::allocate(std::int64_t{20} << 20);  // more than a chunk: one of its own
    large.narrow(0, large.numel() - 1, 1).fill_(3);
  }
  const auto* begin = static_cast<const char*>(first.const_data_ptr());
  const auto* next = static_cast<const char*>(second.const_data_ptr());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(begin) % (2 << 20), 0U) << "on a huge page";
  EXPECT_EQ(next - begin, (kFloats * 4 + 63) / 64 * 64);
  first.reset();
  EXPECT_TRUE(at::equal(second, at::full({kFloats}, 2.0F)));
}

TEST(WeightArena, IsTheInnermostOfItsThread) {
  const WeightArena outer;
  const at::Tensor before = WeightArena::allocate(1 << 16);
  {
    const WeightArena inner;
    const at::Tensor own = WeightArena::allocate(1 << 16);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(own.const_data_ptr()) % (2 << 20), 0U);
  }
  const at::Tensor after = WeightArena::allocate(1 << 16);
  EXPECT_EQ(after.const_data_ptr<float>() - before.const_data_ptr<float>(), 1 << 16);
}

TEST(WeightArena, IsNotNeeded) {
  for (const std::int64_t count : {0, 1, 1 << 16, 1 << 20}) {
    const at::Tensor alone = WeightArena::allocate(count).fill_(1);
    EXPECT_EQ(alone.numel(), count);
  }
}

}  // namespace
}  // namespace torchpool::kernels
