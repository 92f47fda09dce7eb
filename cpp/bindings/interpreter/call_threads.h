// Threads for calls that mostly wait, for a device or another service: such a call needs no core.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "core/sync/mutex.h"

namespace torchpool {

// Starts a thread where all are taken, up to kMostThreads for all predictors. Those that have started wait for more
// until close().
class CallThreads {
 public:
  // `most`: calls of one predictor at a time.
  explicit CallThreads(int most) : most_(most) {}
  ~CallThreads() { close(); }
  CallThreads(const CallThreads&) = delete;
  CallThreads& operator=(const CallThreads&) = delete;

  // Has `work`, which must not throw, run at once, on a thread of these. False where none is free, and none can be
  // started, as where the process may have no more: nothing was done. Work does not wait for other work here, which may
  // wait for it.
  bool post(std::function<void()> work) noexcept TP_EXCLUDES(mutex_);
  // Takes no more, runs what is left, and joins. Idempotent. Requires that the interpreter's lock is not held, and that
  // it is not called on a thread of these.
  void close() noexcept TP_EXCLUDES(mutex_);
  int most() const noexcept { return most_; }
  // How many calls share the cores beside the workers, to be counted by whoever runs one.
  std::atomic<int>& running() noexcept { return running_; }
  // True on a thread of any of these: what runs there must not wait for another call.
  static bool on_call_thread() noexcept;
  // True on a thread of these, which cannot wait for their end.
  bool is_own_thread() const noexcept;

 private:
  void run() TP_EXCLUDES(mutex_);

  static constexpr std::size_t kMostThreads = 64;
  const int most_;
  std::atomic<int> running_{0};
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> work_ TP_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ TP_GUARDED_BY(mutex_);
  std::size_t idle_ TP_GUARDED_BY(mutex_) = 0;
  bool closed_ TP_GUARDED_BY(mutex_) = false;
};

}  // namespace torchpool
