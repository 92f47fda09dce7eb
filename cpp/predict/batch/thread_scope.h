// Intra-op threads of the calling thread, and of no other.
#pragma once

namespace torchpool {

// Makes torch's OpenMP and MKL regions use `threads` threads when entered from this thread, from now on.
// at::set_num_threads is not used: its setting would become the default of every thread that starts later.
void set_intra_op_threads(int threads);

// Cores that a child of this process works on while it captures: calls that run alone leave them to it. Two
// threads of an LSTM's call that share one core with the child take 0.9 ms where one thread takes 0.2.
void lend_cores(int more);
void take_back_lent_cores();
// Of `cores` as many as are not lent, at least one.
int less_lent_cores(int cores) noexcept;

// Intra-op threads for each of `calls` that run side by side on threads of the user's; 0: as many as the thread has.
int share_of_cores(int calls);

// Ends the threads that OpenMP keeps behind the calling one; the next region starts others. False where that cannot be.
// A process forked afterwards may use OpenMP on this thread, which libgomp would let wait for them for ever.
bool end_intra_op_team() noexcept;

// In a forked child, before it has other threads. Torch makes a thread pool of its own afresh there (PThreadPool) once
// a new thread asks for its number of threads; where several ask at once, all but one find no pool, and raise.
void renew_torch_pool() noexcept;

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
