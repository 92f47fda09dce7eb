#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "predict/kernels/lanes_avx512.h"
#include "predict/kernels/rnn_run.h"

namespace torchpool::kernels {

void run_rnn_avx512(const RnnModel& model, const RnnCall& call, float* scratch) {
  run_rnn<Lanes16, Lanes8>(model, call, scratch);
}

}  // namespace torchpool::kernels
#endif
