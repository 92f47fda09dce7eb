#include "lab/fma_peak.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace torchpool {

#if defined(__x86_64__)

namespace {

constexpr int kSums = 12;  // independent ones, enough for a latency of 5 cycles and two units
constexpr int kLoops = 20'000;
constexpr int kTries = 200;

#define TP_EACH_SUM(R)                                                                             \
  "vfmadd231ps %%" R "mm12, %%" R "mm12, %%" R "mm0\n\tvfmadd231ps %%" R "mm12, %%" R "mm12, %%" R \
  "mm1\n\t"                                                                                        \
  "vfmadd231ps %%" R "mm12, %%" R "mm12, %%" R "mm2\n\tvfmadd231ps %%" R "mm12, %%" R "mm12, %%" R \
  "mm3\n\t"                                                                                        \
  "vfmadd231ps %%" R "mm12, %%" R "mm12, %%" R "mm4\n\tvfmadd231ps %%" R "mm12, %%" R "mm12, %%" R \
  "mm5\n\t"                                                                                        \
  "vfmadd231ps %%" R "mm12, %%" R "mm12, %%" R "mm6\n\tvfmadd231ps %%" R "mm12, %%" R "mm12, %%" R \
  "mm7\n\t"                                                                                        \
  "vfmadd231ps %%" R "mm12, %%" R "mm12, %%" R "mm8\n\tvfmadd231ps %%" R "mm12, %%" R "mm12, %%" R \
  "mm9\n\t"                                                                                        \
  "vfmadd231ps %%" R "mm12, %%" R "mm12, %%" R "mm10\n\tvfmadd231ps %%" R "mm12, %%" R "mm12, %%" R "mm11\n\t"
// The registers are zeroed first: a subnormal number among them would slow the products down.
#define TP_LOOP(R)                                                                                                \
  do {                                                                                                            \
    int left = kLoops;                                                                                            \
    asm volatile("vzeroall\n1:\n\t" TP_EACH_SUM(R) "dec %0\n\tjnz 1b\n\tvzeroupper"                               \
                 : "+r"(left)                                                                                     \
                 :                                                                                                \
                 : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
                   "xmm11", "xmm12");                                                                             \
  } while (false)

double seconds_of(bool wide) {
  const auto start = std::chrono::steady_clock::now();
  if (wide) {
    TP_LOOP("z");
  } else {
    TP_LOOP("y");
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double fma_peak(const std::string& isa) {
  __builtin_cpu_init();
  const bool wide = isa == "avx512";
  if (!wide && isa != "avx2") throw std::invalid_argument("expected avx2 or avx512, got '" + isa + "'");
  if (wide ? !__builtin_cpu_supports("avx512f") : !__builtin_cpu_supports("fma")) {
    throw std::invalid_argument("this processor has no " + isa);
  }
  double best = seconds_of(wide);
  for (int i = 1; i < kTries; ++i) best = std::min(best, seconds_of(wide));
  return 2e-9 * (wide ? 16 : 8) * kSums * kLoops / best;
}

#else

double fma_peak(const std::string& isa) {
  throw std::invalid_argument("this processor has no " + isa);
}

#endif

}  // namespace torchpool
