// The bounded queue between callers and workers of one channel.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "core/batch/batch.h"
#include "core/batch/batch_former.h"
#include "core/batch/batch_policy.h"
#include "core/queue/waiting_requests.h"
#include "core/schedule/stats.h"
#include "core/sync/clock.h"
#include "core/sync/mutex.h"

namespace torchpool {

// What a push does when the queue is full.
enum class Admission : std::uint8_t {
  kBlock,   // waits for room
  kReject,  // throws QueueFull
  kTry,     // as kReject, but the call does not count as rejected: its producer tries again in another way
  kLineUp,  // accepts the call, which stands in line for room while no thread waits: for event loops
};
enum class PushResult : std::uint8_t { kAdmitted, kTimedOut };

struct QueueLimits {
  std::int64_t rows = 4096;
  std::int64_t bytes = std::int64_t{256} << 20;
};

// Limits on what a worker takes, beside the limits of the queue's policy.
struct TakeLimits {
  BatchLimits batch;
  std::int64_t first_rows = 32;  // rows of a batch, until the policy knows more
  int workers = 1;
};

// What a worker got.
struct Taken {
  Batch batch;
  std::int64_t limit = 0;  // most rows that the policy allowed the batch; 0: this batch teaches the policy nothing
  // Later than now where nothing was taken because the policy waits for more.
  TimePoint hold_until{};
};

// Requires: held by a shared_ptr, so that a deadline can free a request's place.
class AdmissionQueue : public std::enable_shared_from_this<AdmissionQueue> {
 public:
  // `policy` null: batches of as many rows as the limits allow, at once. `cost` null: the time that calls take is
  // unknown.
  AdmissionQueue(QueueLimits limits, Clock& clock, std::shared_ptr<ChannelStats> stats,
                 std::unique_ptr<BatchPolicy> policy = nullptr, std::shared_ptr<const CostModel> cost = nullptr);
  ~AdmissionQueue();  // fails all waiting requests with Closed

  // Where the queue is full: blocks until there is room, `give_up` passes (kTimedOut, the request stays Created) or the
  // queue closes; or throws QueueFull; or lines the request up. A request larger than the bounds is admitted when the
  // queue is empty. A request that is cancelled before it has a place counts as admitted, and takes no place. Throws
  // Closed, and DeadlineExceeded when the request's own deadline passed. Blocked threads and lined-up requests share
  // one line, served in order.
  PushResult push(const RequestPtr& request, Admission admission, TimePoint give_up) TP_EXCLUDES(mutex_);
  // Whether a push would admit such a request at once, for now.
  bool has_room(const RequestInfo& info) TP_EXCLUDES(mutex_);
  // Forms and starts a batch. The batch is empty when nothing is waiting, or when the policy waits for more requests.
  // Requests that are cancelled, that expired, or that cannot meet their deadline even alone leave first, at no cost.
  Taken take(const TakeLimits& limits) TP_EXCLUDES(mutex_);
  // Until when the policy waits for more requests; a time in the past where the policy does not wait.
  TimePoint hold_until(const TakeLimits& limits) TP_EXCLUDES(mutex_);
  // Gives back the place of a request that was cancelled or expired.
  void forget(const Request& request) noexcept TP_EXCLUDES(mutex_);

  // Refuses requests from now on and wakes all blocked producers (Closed). Requests that are lined up stay: they are
  // accepted already. Idempotent.
  void close() TP_EXCLUDES(mutex_);
  // Fails all requests that wait or stand in line with `error`. Returns how many.
  std::size_t fail_waiting(const std::exception_ptr& error) TP_EXCLUDES(mutex_);

  // Both are read without the lock, so they may be out of date. Sequentially consistent: see Scheduler::notify.
  std::int64_t waiting_rows() const noexcept { return rows_.load(); }
  std::size_t waiting() const noexcept { return count_.load(); }
  // As many rows in flight as fill a batch for each worker, and the next one: more of them only wait. By the size that
  // the policy chose for the last batch; 0 before the first.
  std::int64_t useful_rows() const noexcept { return useful_rows_.load(std::memory_order_relaxed); }
  // The policy from the next batch on; null: no policy.
  void set_policy(std::unique_ptr<BatchPolicy> policy) TP_EXCLUDES(mutex_);

 private:
  struct Producer;  // a push that waits for room: on its thread's stack, or on the heap where no thread waits
  using Producers = std::list<Producer*>;
  struct Left {  // work that is done once the lock is free
    Producers woken;
    std::vector<RequestPtr> dropped;
  };

  // Admits the request at once where the bounds and the line allow. False when the producer has to wait. Throws Closed
  // or QueueFull.
  bool admit_at_once_locked(const RequestPtr& request, Admission admission, TimePoint now) TP_REQUIRES(mutex_);
  PushResult push_blocked(const RequestPtr& request, TimePoint give_up) TP_EXCLUDES(mutex_);
  bool fits_locked(const RequestInfo& info) const TP_REQUIRES(mutex_);
  void admit_locked(const RequestPtr& request, TimePoint now) TP_REQUIRES(mutex_);
  void place_locked(const RequestPtr& request) TP_REQUIRES(mutex_);
  RequestPtr remove_locked(const Request& request) TP_REQUIRES(mutex_);
  // Admits, in order, the producers in line that now fit. Work for after the lock goes to `left`. `leaving` is about to
  // expire, and keeps nobody waiting.
  void grant_locked(TimePoint now, Left& left, const Request* leaving = nullptr) TP_REQUIRES(mutex_);
  void publish_locked() TP_REQUIRES(mutex_);
  static void wake(const Producers& woken);

  QueueView view_locked(const TakeLimits& limits) const TP_REQUIRES(mutex_);
  // When the policy lets a batch start; no later than `now` where the batch may start.
  TimePoint hold_until_locked(const QueueView& view, TimePoint now) TP_REQUIRES(mutex_);
  // Moves the next batch's requests out of the queue into `picked`, and requests that are not to run into `dropped`.
  void collect_locked(const BatchLimits& limits, TimePoint now, std::vector<RequestPtr>& picked,
                      std::vector<RequestPtr>& dropped) TP_REQUIRES(mutex_);
  bool collect_uniform_locked(const BatchLimits& limits, TimePoint now, std::vector<RequestPtr>& picked,
                              std::vector<RequestPtr>& dropped) TP_REQUIRES(mutex_);
  bool drop_locked(Request& request, TimePoint now, std::vector<RequestPtr>& dropped) TP_REQUIRES(mutex_);
  void count_overtaken_locked(const std::vector<std::size_t>& taken) TP_REQUIRES(mutex_);
  Duration needed_alone(const Request& request) const noexcept;
  void settle_dropped(const std::vector<RequestPtr>& dropped, TimePoint now) const noexcept;

  const QueueLimits limits_;
  Clock& clock_;
  const std::shared_ptr<ChannelStats> stats_;
  const std::shared_ptr<const CostModel> cost_;

  Mutex mutex_;
  bool closed_ TP_GUARDED_BY(mutex_) = false;
  std::unique_ptr<BatchPolicy> policy_ TP_GUARDED_BY(mutex_);
  WaitingRequests requests_ TP_GUARDED_BY(mutex_);
  Producers line_ TP_GUARDED_BY(mutex_);
  std::uint64_t admitted_ TP_GUARDED_BY(mutex_) = 0;
  std::int64_t bytes_ TP_GUARDED_BY(mutex_) = 0;
  TimePoint last_arrival_ TP_GUARDED_BY(mutex_){};
  Duration arrival_gap_ TP_GUARDED_BY(mutex_){};
  std::vector<Request*> window_ TP_GUARDED_BY(mutex_);  // scratch of collect_locked
  std::vector<const RequestInfo*> infos_ TP_GUARDED_BY(mutex_);
  std::atomic<std::int64_t> rows_{0};  // written under the mutex, read without
  std::atomic<std::size_t> count_{0};  // written under the mutex, read without
  std::atomic<std::int64_t> useful_rows_{0};
};

}  // namespace torchpool
