// Intra-op threads of the calling thread, and of no other.
#pragma once

namespace torchpool {

// Makes torch's OpenMP and MKL regions use `threads` threads when entered from this thread, from now on.
// at::set_num_threads is not used: its setting would become the default of every thread that starts later.
void set_intra_op_threads(int threads);

// Sets the threads for a scope on a thread of the user's, and puts the thread's own setting back. 0: changes nothing.
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
