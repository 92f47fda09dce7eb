#include "predict/kernels/isa.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace torchpool::kernels {
namespace {

TEST(Isa, IsOnlyEverLowered) {
  EXPECT_EQ(lowered(Isa::kAvx512, "avx2"), Isa::kAvx2);
  EXPECT_EQ(lowered(Isa::kAvx512, "portable"), Isa::kPortable);
  EXPECT_EQ(lowered(Isa::kAvx512, "avx512"), Isa::kAvx512);
  EXPECT_EQ(lowered(Isa::kAvx2, "avx512"), Isa::kAvx2);
  EXPECT_EQ(lowered(Isa::kPortable, "avx2"), Isa::kPortable);
}

TEST(Isa, IsTheProcessorsBestWhereNothingIsWanted) {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    EXPECT_EQ(lowered(isa, ""), isa);
    EXPECT_EQ(lowered(Isa::kAvx512, name_of(isa)), isa);
  }
}

TEST(Isa, AnotherWordIsRefusedAndToldWithWhatIsExpected) {
  for (const char* wanted : {"AVX2", "avx", "sse4", " avx2"}) {
    try {
      lowered(Isa::kAvx2, wanted);
      FAIL() << wanted;
    } catch (const std::invalid_argument& error) {
      const std::string said = error.what();
      EXPECT_NE(said.find('\'' + std::string(wanted) + '\''), std::string::npos) << said;
      EXPECT_NE(said.find("portable, avx2 or avx512"), std::string::npos) << said;
    }
  }
}

TEST(Isa, WhatIsChosenRunsHere) {
  EXPECT_LE(chosen(), detected());
  EXPECT_EQ(chosen(), chosen());
}

}  // namespace
}  // namespace torchpool::kernels
