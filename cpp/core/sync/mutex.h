// A mutex, its scoped lock and a condition variable that clang's thread-safety analysis understands.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define TP_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define TP_THREAD_ANNOTATION(x)
#endif

#define TP_CAPABILITY(x) TP_THREAD_ANNOTATION(capability(x))
#define TP_SCOPED_CAPABILITY TP_THREAD_ANNOTATION(scoped_lockable)
#define TP_GUARDED_BY(x) TP_THREAD_ANNOTATION(guarded_by(x))
#define TP_PT_GUARDED_BY(x) TP_THREAD_ANNOTATION(pt_guarded_by(x))
#define TP_REQUIRES(...) TP_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define TP_EXCLUDES(...) TP_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define TP_ACQUIRE(...) TP_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define TP_TRY_ACQUIRE(...) TP_THREAD_ANNOTATION(try_acquire_capability(__VA_ARGS__))
#define TP_RELEASE(...) TP_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define TP_NO_ANALYSIS TP_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace torchpool {

class TP_CAPABILITY("mutex") Mutex {
 public:
  void lock() TP_ACQUIRE() { mutex_.lock(); }
  void unlock() TP_RELEASE() { mutex_.unlock(); }
  bool try_lock() TP_TRY_ACQUIRE(true) { return mutex_.try_lock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class TP_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) TP_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() TP_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits may return without a notification; callers loop on their condition.
class CondVar {
 public:
  void wait(Mutex& mutex) TP_REQUIRES(mutex);
  void wait_until(Mutex& mutex, std::chrono::steady_clock::time_point until) TP_REQUIRES(mutex);
  void notify_one() noexcept { cv_.notify_one(); }
  void notify_all() noexcept { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace torchpool
