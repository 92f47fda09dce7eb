// The most fused multiply-adds that a core can do.
#pragma once

#include <string>

namespace torchpool {

// Of one thread, in 1e9 floating-point operations a second (a fused product is two), from the fastest of many short
// loops over registers only. `isa`: "avx2" or "avx512". Throws std::invalid_argument for another word, or where the
// processor has no such instructions.
double fma_peak(const std::string& isa);

}  // namespace torchpool
