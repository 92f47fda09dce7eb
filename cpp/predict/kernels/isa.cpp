#include "predict/kernels/isa.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace torchpool::kernels {

const char* name_of(Isa isa) noexcept {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

Isa detected() noexcept {
#if defined(__x86_64__)
  // Asks the operating system, too, whether it keeps the registers.
  __builtin_cpu_init();
  const bool all = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (!all) return Isa::kPortable;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return wide ? Isa::kAvx512 : Isa::kAvx2;
#else
  return Isa::kPortable;
#endif
}

Isa lowered(Isa best, std::string_view wanted) {
  if (wanted.empty()) return best;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (wanted == name_of(isa)) return std::min(best, isa);
  }
  throw std::invalid_argument("TORCHPOOL_ISA is '" + std::string(wanted) +
                              "': expected portable, avx2 or avx512, or leave it unset for the processor's best");
}

Isa chosen() {
  static const Isa isa = [] {
    const char* wanted = std::getenv("TORCHPOOL_ISA");  // NOLINT(concurrency-mt-unsafe): nobody here sets it
    return lowered(detected(), wanted == nullptr ? "" : wanted);
  }();
  return isa;
}

}  // namespace torchpool::kernels
