#include "predict/batch/difference.h"

#include <ATen/ATen.h>

#include <limits>

#include "predict/test_support.h"

namespace torchpool::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::optional<std::string> difference_of(const at::Tensor& alone, const at::Tensor& in_batch, double largest = 0) {
  return difference(row_contract(3), {alone}, {in_batch}, {largest}, rounding_of({}, {alone}));
}

TEST(Difference, RoundingIsThatOfTheCoarsestDtype) {
  const at::Tensor x = at::rand({2});
  EXPECT_EQ(rounding_of({x}, {x}), 1e-5);
  EXPECT_EQ(rounding_of({x.to(at::kDouble)}, {x.to(at::kDouble)}), 1e-12);
  EXPECT_EQ(rounding_of({x.to(at::kHalf)}, {x}), 5e-3);
  EXPECT_EQ(rounding_of({x}, {x, x.to(at::kBFloat16)}), 5e-2);
  EXPECT_EQ(rounding_of({x}, {x.to(at::kComplexFloat)}), 1e-5);
  EXPECT_EQ(rounding_of({x.to(at::kLong)}, {x.to(at::kBool)}), 0.0);
}

TEST(Difference, FloatsMayDifferByRoundingOfTheLargestValue) {
  const at::Tensor alone = at::tensor({1.0F, -100.0F, 0.0F});
  EXPECT_EQ(difference_of(alone, alone + at::tensor({0.0F, 0.0F, 9e-4F})), std::nullopt);
  EXPECT_EQ(difference_of(alone, alone + at::tensor({0.0F, 0.0F, 2.1F})),
            "output 'y' differs by 2.1e-02 of the largest value");
  EXPECT_EQ(difference_of(alone, alone + at::tensor({0.0F, 0.0F, 9e-3F}), 1e3), std::nullopt) << "of the batch's";
  EXPECT_NE(difference_of(alone, alone + at::tensor({0.0F, 0.0F, 2e-2F}), 1e3), std::nullopt);
}

TEST(Difference, ADoubleMayDifferByLess) {
  const at::Tensor alone = at::ones({2}, at::kDouble);
  EXPECT_EQ(difference_of(alone, alone + 1e-13), std::nullopt);
  EXPECT_NE(difference_of(alone, alone + 1e-11), std::nullopt);
}

TEST(Difference, WhatIsNotFiniteStandsInTheSamePlaces) {
  const at::Tensor alone = at::tensor({1.0F, kNan, kInf, -kInf});
  EXPECT_EQ(difference_of(alone, alone.clone()), std::nullopt);
  for (const auto& other : {at::tensor({1.0F, kNan, kInf, kInf}), at::tensor({1.0F, kInf, kInf, -kInf}),
                            at::tensor({1.0F, kNan, 3.0F, -kInf}), at::tensor({kNan, kNan, kInf, -kInf})}) {
    EXPECT_EQ(difference_of(alone, other), "output 'y' differs in which values are not finite") << other;
  }
  EXPECT_NE(difference_of(alone, at::tensor({1.1F, kNan, kInf, -kInf})), std::nullopt);
}

TEST(Difference, IntegersAndBoolsAreEqual) {
  const at::Tensor alone = at::tensor({1, 2, 1'000'000});
  EXPECT_EQ(difference_of(alone, alone.clone()), std::nullopt);
  EXPECT_EQ(difference_of(alone, at::tensor({1, 3, 1'000'000}), 1e9), "output 'y' differs in 1 of 3 values");
  EXPECT_NE(difference_of(at::ones({2}, at::kBool), at::zeros({2}, at::kBool)), std::nullopt);
}

TEST(Difference, ComplexValuesAreComparedByTheirParts) {
  const at::Tensor alone = at::complex(at::ones({2}), at::zeros({2}));
  EXPECT_EQ(difference_of(alone, alone.clone()), std::nullopt);
  EXPECT_NE(difference_of(alone, at::complex(at::ones({2}), at::full({2}, 1e-3F))), std::nullopt);
}

TEST(Difference, ShapesDtypesAndNumbersCount) {
  EXPECT_EQ(difference_of(at::zeros({2, 3}), at::zeros({2, 4})), "output 'y' has shape [2, 4], alone [2, 3]");
  EXPECT_NE(difference_of(at::zeros({2}), at::zeros({2}, at::kDouble)), std::nullopt);
  EXPECT_NE(difference(row_contract(3), {at::zeros({1})}, {at::zeros({1}), at::zeros({1})}, {0, 0}, 0), std::nullopt);
  EXPECT_EQ(difference_of(at::zeros({0, 3}), at::zeros({0, 3})), std::nullopt);
  EXPECT_EQ(difference_of(at::zeros({0, 3}), at::zeros({1, 3})), "output 'y' has shape [1, 3], alone [0, 3]");
}

TEST(Difference, TheLargestValueIsOfTheFiniteOnes) {
  EXPECT_EQ(largest_finite({at::tensor({1.0F, -3.0F, kInf, kNan}), at::tensor({5}), at::zeros({0})}),
            (std::vector<double>{3, 0, 0}));
}

}  // namespace
}  // namespace torchpool::testing
