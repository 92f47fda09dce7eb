#include "core/schedule/thread_group.h"

#include <exception>
#include <memory>
#include <utility>

#include "core/sync/mutex.h"
#include "core/sync/thread.h"

namespace torchpool {
namespace {

// Where threads report their start and learn whether all of them did.
class StartLine {
 public:
  // True when the thread is to run.
  bool report_and_wait(std::exception_ptr error) TP_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (error != nullptr && error_ == nullptr) error_ = std::move(error);
    ++reported_;
    changed_.notify_all();
    while (!decided_) changed_.wait(mutex_);
    return error_ == nullptr;
  }
  // Waits for `threads` reports, adds an error of the caller's own and lets the threads go on. Returns the
  // first error.
  std::exception_ptr decide(int threads, std::exception_ptr error) TP_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (reported_ < threads) changed_.wait(mutex_);
    if (error != nullptr && error_ == nullptr) error_ = std::move(error);
    decided_ = true;
    changed_.notify_all();
    return error_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int reported_ TP_GUARDED_BY(mutex_) = 0;
  bool decided_ TP_GUARDED_BY(mutex_) = false;
  std::exception_ptr error_ TP_GUARDED_BY(mutex_);
};

void run_thread(const ThreadGroup::Hooks& hooks, StartLine& line, int thread) {
  std::exception_ptr error;
  try {
    if (hooks.start) hooks.start(thread);
  } catch (...) {
    error = std::current_exception();
  }
  const bool started = error == nullptr;
  if (line.report_and_wait(std::move(error))) hooks.body(thread);
  if (started && hooks.stop) hooks.stop(thread);
}

}  // namespace

ThreadGroup::ThreadGroup(int threads, Hooks hooks) : hooks_(std::make_shared<const Hooks>(std::move(hooks))) {
  grow(threads);
}

void ThreadGroup::grow(int threads) {
  const auto line = std::make_shared<StartLine>();
  const int first = size();
  std::exception_ptr error;
  try {
    threads_.reserve(threads_.size() + static_cast<std::size_t>(threads));
    for (int i = 0; i < threads; ++i) {
      threads_.push_back(
          start_thread([hooks = hooks_, line, thread = first + i] { run_thread(*hooks, *line, thread); }));
    }
  } catch (...) {
    error = std::current_exception();
  }
  error = line->decide(size() - first, std::move(error));
  if (error == nullptr) return;
  shrink(first);
  std::rethrow_exception(error);
}

void ThreadGroup::shrink(int first) {
  while (size() > first) {
    threads_.back().join();
    threads_.pop_back();
  }
}

}  // namespace torchpool
