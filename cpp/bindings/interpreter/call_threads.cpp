#include "bindings/interpreter/call_threads.h"

#include <exception>
#include <utility>

#include "bindings/interpreter/gil.h"
#include "core/sync/thread.h"

namespace torchpool {

namespace {
thread_local const CallThreads* threads_of_this = nullptr;
}

bool CallThreads::on_call_thread() noexcept {
  return threads_of_this != nullptr;
}

bool CallThreads::is_own_thread() const noexcept {
  return threads_of_this == this;
}

bool CallThreads::post(std::function<void()> work) noexcept {
  MutexLock lock(mutex_);
  if (closed_) return false;
  const bool free = idle_ > work_.size();
  if (!free && threads_.size() >= kMostThreads) return false;
  try {
    work_.push_back(std::move(work));
    if (!free) {
      threads_.reserve(threads_.size() + 1);  // else one that runs might find no room
      threads_.push_back(start_thread([this] { run(); }));
      ++idle_;
    }
  } catch (const std::exception&) {  // no memory, or NoThread
    if (work_.size() > idle_) work_.pop_back();
    return false;
  }
  changed_.notify_one();
  return true;
}

void CallThreads::close() noexcept {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    threads.swap(threads_);
    changed_.notify_all();
  }
  for (std::thread& thread : threads) thread.join();
}

void CallThreads::run() {
  threads_of_this = this;
  bool fresh = true;
  for (;;) {
    std::function<void()> work;
    {
      MutexLock lock(mutex_);
      if (!fresh) ++idle_;  // a new one was counted by who started it
      fresh = false;
      while (work_.empty() && !closed_) changed_.wait(mutex_);
      --idle_;
      if (work_.empty()) break;
      work = std::move(work_.front());
      work_.pop_front();
    }
    work();
  }
  GilGate::stop_thread();
}

}  // namespace torchpool
