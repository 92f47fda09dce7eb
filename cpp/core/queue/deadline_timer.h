// Expires requests at their deadlines.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "core/queue/request.h"
#include "core/sync/clock.h"
#include "core/sync/mutex.h"

namespace torchpool {

// One thread, started by the first request that is watched. Holds requests weakly, and drops the entries of requests
// that are gone. Guarantees: a request that is queued or running at its deadline expires, and a queued one gives its
// place back.
class DeadlineTimer {
 public:
  explicit DeadlineTimer(Clock& clock) : clock_(clock) {}
  ~DeadlineTimer() { stop(); }
  DeadlineTimer(const DeadlineTimer&) = delete;
  DeadlineTimer& operator=(const DeadlineTimer&) = delete;

  // Starts the thread, unless it runs or stop() was called. Throws NoThread. To be called before a request with a
  // deadline is admitted: afterwards nothing may fail.
  void start() TP_EXCLUDES(mutex_);
  // Requires: the request was admitted. Does nothing for a request without a deadline, or after stop(). Where there is
  // no memory for it, the request expires only before it starts.
  void watch(const RequestPtr& request) noexcept TP_EXCLUDES(mutex_);
  // Ends the thread and watches no more. Idempotent. Must not be called from on_resolved().
  void stop() TP_EXCLUDES(mutex_);

 private:
  struct Entry {
    TimePoint deadline;
    std::weak_ptr<Request> request;
    bool operator<(const Entry& other) const { return deadline > other.deadline; }  // earliest on top of the heap
  };
  static constexpr std::size_t kFirstSweep = 1024;

  void run() TP_EXCLUDES(mutex_);
  void start_locked() TP_REQUIRES(mutex_);
  void sweep_locked() TP_REQUIRES(mutex_);
  Entry pop_locked() TP_REQUIRES(mutex_);
  bool drop_resolved() TP_EXCLUDES(mutex_);
  static void expire(const RequestPtr& request) noexcept;

  Clock& clock_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<Entry> heap_ TP_GUARDED_BY(mutex_);
  std::size_t sweep_at_ TP_GUARDED_BY(mutex_) = kFirstSweep;
  bool stopping_ TP_GUARDED_BY(mutex_) = false;
  std::thread thread_ TP_GUARDED_BY(mutex_);
};

}  // namespace torchpool
