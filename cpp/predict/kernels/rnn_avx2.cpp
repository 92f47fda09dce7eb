#if defined(__AVX2__) && defined(__FMA__)
#include "predict/kernels/lanes_avx2.h"
#include "predict/kernels/rnn_run.h"

namespace torchpool::kernels {

void run_rnn_avx2(const RnnModel& model, const RnnCall& call, float* scratch) {
  run_rnn<Lanes8, Lanes8>(model, call, scratch);
}

}  // namespace torchpool::kernels
#endif
