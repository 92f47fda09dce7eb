// Threads that start together or not at all.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace torchpool {

// Requires: one thread at a time uses the group, and no thread of the group joins. join() returns when the bodies have
// ended; the caller sees to it that they do.
// Guarantees: the constructor returns when every thread has passed its start hook. If a thread cannot be created or a
// hook throws, the started threads run their stop hook and are joined, and the first error is thrown.
// Destruction: joins.
class ThreadGroup {
 public:
  struct Hooks {
    std::function<void(int thread)> start;
    std::function<void(int thread)> body;
    std::function<void(int thread)> stop;
  };
  ThreadGroup(int threads, Hooks hooks);
  ~ThreadGroup() { join(); }
  // Starts more threads, with the next numbers. As in the constructor, all of them start or none.
  void grow(int threads);
  // Joins the threads from number `first` on. Requires: their bodies end.
  void shrink(int first);
  int size() const noexcept { return static_cast<int>(threads_.size()); }
  ThreadGroup(const ThreadGroup&) = delete;
  ThreadGroup& operator=(const ThreadGroup&) = delete;

  void join() { shrink(0); }  // idempotent

 private:
  const std::shared_ptr<const Hooks> hooks_;
  std::vector<std::thread> threads_;
};

}  // namespace torchpool
