// Threads that start together or not at all.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace torchpool {

// Requires: one thread at a time uses it, and none of its own joins; the bodies end by a signal of their own before
// join() can return. Guarantees: the constructor returns when every thread has passed its start hook. If a thread
// cannot be created or a hook throws, those that started run their stop hook and are joined, and the first error is
// thrown. Destruction: joins.
class ThreadPool {
 public:
  struct Hooks {
    std::function<void(int thread)> start;
    std::function<void(int thread)> body;
    std::function<void(int thread)> stop;
  };
  ThreadPool(int threads, Hooks hooks);
  ~ThreadPool() { join(); }
  // Starts more, numbered on; as the constructor: all of them or none.
  void grow(int threads);
  // Joins those from `first` on, whose bodies end.
  void shrink(int first);
  int size() const noexcept { return static_cast<int>(threads_.size()); }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void join() { shrink(0); }  // idempotent

 private:
  const std::shared_ptr<const Hooks> hooks_;
  std::vector<std::thread> threads_;
};

}  // namespace torchpool
