// The bounded queue between callers and workers of one channel.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "core/batch.h"
#include "core/batch_former.h"
#include "core/clock.h"
#include "core/mutex.h"
#include "core/request_list.h"
#include "core/stats.h"

namespace torchpool {

// What a push does when the queue is full.
enum class Admission : std::uint8_t {
  kBlock,   // waits for room
  kReject,  // throws QueueFull
  kTry,     // as kReject, but does not count as rejected: the producer tries again in another way
  kBypass,  // exceeds the bounds: for nested calls, which must not wait for themselves
};
enum class PushResult : std::uint8_t { kAdmitted, kTimedOut };

struct QueueLimits {
  std::int64_t rows = 4096;
  std::int64_t bytes = std::int64_t{256} << 20;
};

// Requires, for deadlines to free places: held by a shared_ptr.
class AdmissionQueue : public std::enable_shared_from_this<AdmissionQueue> {
 public:
  AdmissionQueue(QueueLimits limits, Clock& clock, std::shared_ptr<ChannelStats> stats);
  ~AdmissionQueue();  // fails what is left with Closed

  // A request that is cancelled before it has a place counts as admitted, and takes none.
  // Full: blocks until there is room, `give_up` passes (kTimedOut, the request stays Created) or the queue
  // closes; or throws QueueFull. A request larger than the bounds is admitted when the queue is empty. Throws
  // Closed, and DeadlineExceeded when the request's own deadline passed. Blocked producers are served in
  // order.
  PushResult push(const RequestPtr& request, Admission admission, TimePoint give_up) TP_EXCLUDES(mutex_);
  // Forms and starts a batch; empty when nothing is waiting. Expired and cancelled requests leave first, at
  // no cost.
  Batch take(const BatchLimits& limits) TP_EXCLUDES(mutex_);
  // Gives back the place of a request that was cancelled or expired.
  void forget(const Request& request) noexcept TP_EXCLUDES(mutex_);

  // Refuses from now on and wakes all blocked producers (Closed). Idempotent.
  void close() TP_EXCLUDES(mutex_);
  // Fails everything still waiting with `error`; returns how many.
  std::size_t fail_waiting(const std::exception_ptr& error) TP_EXCLUDES(mutex_);

  // Only indicative without the lock. Sequentially consistent: see Scheduler::notify.
  std::int64_t waiting_rows() const noexcept { return rows_.load(); }
  std::size_t waiting() const noexcept { return count_.load(); }

 private:
  struct Producer;  // one blocked push, on its thread's stack
  using Producers = std::list<Producer*>;

  // Admits at once where it may; throws Closed or QueueFull; false when the producer has to wait.
  bool admit_at_once_locked(const RequestPtr& request, Admission admission, TimePoint now) TP_REQUIRES(mutex_);
  PushResult push_blocked(const RequestPtr& request, TimePoint give_up) TP_EXCLUDES(mutex_);
  bool fits_locked(const RequestInfo& info) const TP_REQUIRES(mutex_);
  void admit_locked(const RequestPtr& request, TimePoint now) TP_REQUIRES(mutex_);
  RequestPtr remove_locked(const Request& request) TP_REQUIRES(mutex_);
  // Admits the blocked producers that now fit, in order, and moves them to `woken`.
  void grant_locked(TimePoint now, Producers& woken) TP_REQUIRES(mutex_);
  static void wake(const Producers& woken);

  // Moves out the cancelled and expired ones of the window, then what the next batch holds.
  void collect_locked(const BatchLimits& limits, TimePoint now, std::vector<RequestPtr>& picked,
                      std::vector<RequestPtr>& dropped) TP_REQUIRES(mutex_);
  bool drop_locked(Request& request, TimePoint now, std::vector<RequestPtr>& dropped) TP_REQUIRES(mutex_);
  bool collect_uniform_locked(const BatchLimits& limits, TimePoint now, std::vector<RequestPtr>& picked,
                              std::vector<RequestPtr>& dropped) TP_REQUIRES(mutex_);

  const QueueLimits limits_;
  Clock& clock_;
  const std::shared_ptr<ChannelStats> stats_;

  Mutex mutex_;
  bool closed_ TP_GUARDED_BY(mutex_) = false;
  RequestList list_ TP_GUARDED_BY(mutex_);
  Producers producers_ TP_GUARDED_BY(mutex_);
  std::size_t special_ TP_GUARDED_BY(mutex_) = 0;  // waiting with a priority or a deadline: order is not arrival
  std::int64_t bytes_ TP_GUARDED_BY(mutex_) = 0;
  std::vector<const RequestInfo*> window_ TP_GUARDED_BY(mutex_);  // scratch of collect_locked
  std::vector<Request*> window_requests_ TP_GUARDED_BY(mutex_);
  std::atomic<std::int64_t> rows_{0};  // written under the mutex, read without
  std::atomic<std::size_t> count_{0};  // written under the mutex, read without
};

}  // namespace torchpool
