// Intra-op threads of the calling thread, and of no other.
#pragma once

namespace torchpool {

// Makes torch's OpenMP and MKL regions use `threads` threads when entered from this thread, from now on. Never
// at::set_num_threads, which would become the default of every thread that starts later.
void set_intra_op_threads(int threads);

// Sets them for a scope on a thread that is not ours, and puts its own setting back. 0: leaves everything as it is.
class IntraOpScope {
 public:
  explicit IntraOpScope(int threads);
  ~IntraOpScope();
  IntraOpScope(const IntraOpScope&) = delete;
  IntraOpScope& operator=(const IntraOpScope&) = delete;

 private:
  int before_ = 0;
};

}  // namespace torchpool
