#include "predict/batch/thread_scope.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <system_error>
#include <thread>

namespace torchpool {

namespace {

// Taken from what torch has mapped instead of linked: a second OpenMP runtime in the process would have settings and
// threads of its own.
template <typename Function>
Function* find_symbol(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

template <typename Function>
Function* find_torch_symbol(const char* name) {
  if (auto* function = find_symbol<Function>(name)) return function;
  void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  return torch == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(torch, name));
}

std::atomic<int> lent_cores{0};

void set_now(int threads) {
  static auto* const set_omp = find_torch_symbol<void(int)>("omp_set_num_threads");
  static auto* const set_mkl = find_torch_symbol<int(int)>("MKL_Set_Num_Threads_Local");
  if (set_omp != nullptr) set_omp(threads);
  if (set_mkl != nullptr) set_mkl(threads);
}

}  // namespace

void set_intra_op_threads(int threads) {
  thread_local int current = 0;
  if (current == threads) return;
  // Torch initialises a thread's setting at the first query; done later, it would undo ours.
  if (current == 0) at::get_num_threads();
  set_now(threads);
  current = threads;
}

void lend_cores(int more) {
  lent_cores.fetch_add(more, std::memory_order_relaxed);
}

void take_back_lent_cores() {
  lent_cores.store(0, std::memory_order_relaxed);
}

int less_lent_cores(int cores) noexcept {
  return std::max(1, cores - lent_cores.load(std::memory_order_relaxed));
}

int share_of_cores(int calls) {
  if (calls <= 1 && lent_cores.load(std::memory_order_relaxed) == 0) return 0;
  return std::max(1, less_lent_cores(at::get_num_threads()) / std::max(1, calls));
}

bool end_intra_op_team() noexcept {
  static auto* const pause = find_torch_symbol<int(int)>("omp_pause_resource_all");
  static auto* const set_omp = find_torch_symbol<void(int)>("omp_set_num_threads");
  constexpr int kHard = 2;  // omp_pause_hard
  if (pause == nullptr || set_omp == nullptr) return false;
  const int threads = at::get_num_threads();
  const bool ended = pause(kHard) == 0;
  set_omp(threads);  // which it has forgotten
  return ended;
}

void renew_torch_pool() noexcept {
  try {
    std::thread([] {
      try {
        at::get_num_threads();
      } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): whoever computes next meets it, and says so
      }
    }).join();
  } catch (const std::system_error&) {  // NOLINT(bugprone-empty-catch): no thread is left that could race for it
  }
}

IntraOpScope::IntraOpScope(int threads) {
  if (threads == 0) return;
  before_ = at::get_num_threads();
  set_now(threads);
}

IntraOpScope::~IntraOpScope() {
  if (before_ != 0) set_now(before_);
}

}  // namespace torchpool
