// A fixed set of named threads that start together or not at all.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace torchpool {

// Requires: join() on none of its own threads; the bodies end by a signal of their own before join() can
// return. Guarantees: the constructor returns when every thread has passed its start hook. If a thread cannot
// be created or a hook throws, those that started run their stop hook and are joined, and the first error is
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
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void join();  // idempotent, but not from two threads at once

 private:
  std::vector<std::thread> threads_;
};

}  // namespace torchpool
