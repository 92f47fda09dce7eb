#include "predict/kernels/lanes_portable.h"
#include "predict/kernels/rnn_run.h"

namespace torchpool::kernels {

void run_rnn_portable(const RnnModel& model, const RnnCall& call, float* scratch) {
  run_rnn<Lanes4, Lanes4>(model, call, scratch);
}

}  // namespace torchpool::kernels
