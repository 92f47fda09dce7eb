#include "core/admission_queue.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/parker.h"

namespace torchpool {
namespace {

bool is_special(const RequestInfo& info) {
  return info.priority != 0 || info.deadline != kNever;
}

std::size_t window_size(const BatchLimits& limits) {
  return static_cast<std::size_t>(std::clamp<std::int64_t>(limits.max_rows, 8, 512) * 8);
}

}  // namespace

// Whoever changes `outcome` under the queue's mutex then unparks once; the producer leaves only with that
// permit, or after it has taken itself out of the line.
struct AdmissionQueue::Producer {
  Producer(const RequestPtr& waiting, Clock& clock) : request(waiting), parker(clock) {}
  enum class Outcome : std::uint8_t { kWaiting, kAdmitted, kClosed };
  const RequestPtr& request;
  Parker parker;
  Outcome outcome = Outcome::kWaiting;
  Producers::iterator place{};
};

AdmissionQueue::AdmissionQueue(QueueLimits limits, Clock& clock, std::shared_ptr<ChannelStats> stats)
    : limits_(limits), clock_(clock), stats_(std::move(stats)) {}

AdmissionQueue::~AdmissionQueue() {
  if (waiting() > 0) fail_waiting(std::make_exception_ptr(Closed("closed before the call started")));
}

PushResult AdmissionQueue::push(const RequestPtr& request, Admission admission, TimePoint give_up) {
  const RequestState state = request->state();
  if (state != RequestState::kCreated && state != RequestState::kCancelled) {
    throw std::logic_error("a request is submitted once");
  }
  const TimePoint now = clock_.now();
  if (request->info.deadline <= now) throw DeadlineExceeded("the deadline of the call passed before it was queued");
  {
    MutexLock lock(mutex_);
    if (admit_at_once_locked(request, admission, now)) return PushResult::kAdmitted;
  }
  return give_up <= now ? PushResult::kTimedOut : push_blocked(request, give_up);
}

bool AdmissionQueue::admit_at_once_locked(const RequestPtr& request, Admission admission, TimePoint now) {
  if (closed_) throw Closed("closed: no more calls are accepted");
  if (admission == Admission::kBypass || (producers_.empty() && fits_locked(request->info))) {
    admit_locked(request, now);
    return true;
  }
  if (admission == Admission::kReject || admission == Admission::kTry) {
    if (stats_ != nullptr && admission == Admission::kReject) stats_->rejected.fetch_add(1, std::memory_order_relaxed);
    throw QueueFull("the queue is full: " + std::to_string(waiting_rows()) + " rows wait");
  }
  return false;
}

PushResult AdmissionQueue::push_blocked(const RequestPtr& request, TimePoint give_up) {
  Producer producer(request, clock_);
  {
    MutexLock lock(mutex_);
    if (admit_at_once_locked(request, Admission::kBlock, clock_.now())) return PushResult::kAdmitted;
    producer.place = producers_.insert(producers_.end(), &producer);
  }
  const TimePoint deadline = request->info.deadline;
  if (!producer.parker.park_until(std::min(give_up, deadline))) {
    const TimePoint now = clock_.now();
    bool left = false;
    Producers woken;
    {
      MutexLock lock(mutex_);
      if (producer.outcome == Producer::Outcome::kWaiting) {
        producers_.erase(producer.place);
        left = true;
        grant_locked(now, woken);  // the next in line may be smaller
      }
    }
    wake(woken);
    if (left && deadline <= now) throw DeadlineExceeded("the deadline of the call passed before it was queued");
    if (left) return PushResult::kTimedOut;
    producer.parker.park();
  }
  if (producer.outcome == Producer::Outcome::kClosed) throw Closed("closed while the call waited for a place");
  return PushResult::kAdmitted;
}

bool AdmissionQueue::fits_locked(const RequestInfo& info) const {
  if (list_.empty()) return true;
  return waiting_rows() + info.rows <= limits_.rows && bytes_ + info.bytes <= limits_.bytes;
}

void AdmissionQueue::admit_locked(const RequestPtr& request, TimePoint now) {
  request->info.arrival = now;
  if (request->info.deadline != kNever) request->place_ = weak_from_this();
  if (!request->mark_queued(stats_)) return;
  if (is_special(request->info)) ++special_;
  bytes_ += request->info.bytes;
  rows_.store(rows_.load(std::memory_order_relaxed) + request->info.rows);
  count_.store(list_.size() + 1);
  list_.push_back(request);
}

RequestPtr AdmissionQueue::remove_locked(const Request& request) {
  RequestPtr removed = list_.remove(request);
  if (removed == nullptr) return removed;
  if (is_special(request.info)) --special_;
  bytes_ -= request.info.bytes;
  rows_.store(rows_.load(std::memory_order_relaxed) - request.info.rows);
  count_.store(list_.size());
  return removed;
}

void AdmissionQueue::grant_locked(TimePoint now, Producers& woken) {
  while (!producers_.empty() && fits_locked(producers_.front()->request->info)) {
    Producer& producer = *producers_.front();
    admit_locked(producer.request, now);
    producer.outcome = Producer::Outcome::kAdmitted;
    woken.splice(woken.end(), producers_, producers_.begin());
  }
}

void AdmissionQueue::wake(const Producers& woken) {
  for (Producer* producer : woken) producer->parker.unpark();
}

bool AdmissionQueue::drop_locked(Request& request, TimePoint now, std::vector<RequestPtr>& dropped) {
  if (request.state() == RequestState::kQueued && request.info.deadline > now) return false;
  dropped.push_back(remove_locked(request));
  return true;
}

// The common case at no more than one look per request taken: nothing has a priority or a deadline, and the
// head of the queue is alike for as long as a batch is. Gives what form_batch would give for the whole
// window, or false.
bool AdmissionQueue::collect_uniform_locked(const BatchLimits& limits, TimePoint now, std::vector<RequestPtr>& picked,
                                            std::vector<RequestPtr>& dropped) {
  if (special_ > 0) return false;
  const std::int64_t most = row_limit(limits);
  const RequestInfo* seed = nullptr;
  std::int64_t rows = 0;
  window_requests_.clear();
  Request* following = nullptr;
  for (Request* request = list_.front(); request != nullptr && rows < most; request = following) {
    following = RequestList::next(*request);
    if (drop_locked(*request, now, dropped)) continue;
    const RequestInfo& info = request->info;
    if (seed == nullptr) seed = &info;
    if (info.key != seed->key || info.length != seed->length) return false;
    if (rows > 0 && rows + info.rows > most) break;
    rows += info.rows;
    window_requests_.push_back(request);
  }
  picked.reserve(window_requests_.size());
  for (Request* request : window_requests_) picked.push_back(remove_locked(*request));
  return true;
}

void AdmissionQueue::collect_locked(const BatchLimits& limits, TimePoint now, std::vector<RequestPtr>& picked,
                                    std::vector<RequestPtr>& dropped) {
  if (collect_uniform_locked(limits, now, picked, dropped)) return;
  const std::size_t most = window_size(limits);
  window_.clear();
  window_requests_.clear();
  Request* following = nullptr;
  for (Request* request = list_.front(); request != nullptr && window_.size() < most; request = following) {
    following = RequestList::next(*request);
    if (drop_locked(*request, now, dropped)) continue;
    window_.push_back(&request->info);
    window_requests_.push_back(request);
  }
  for (const std::size_t i : form_batch(window_, limits)) picked.push_back(remove_locked(*window_requests_[i]));
}

Batch AdmissionQueue::take(const BatchLimits& limits) {
  for (;;) {
    std::vector<RequestPtr> picked;
    std::vector<RequestPtr> dropped;
    Producers woken;
    const TimePoint now = clock_.now();
    {
      MutexLock lock(mutex_);
      if (list_.empty()) return Batch();
      collect_locked(limits, now, picked, dropped);
      grant_locked(now, woken);
    }
    wake(woken);
    for (const RequestPtr& request : dropped) request->try_expire();
    std::erase_if(picked, [](const RequestPtr& request) { return !request->try_start(); });
    if (picked.empty()) continue;  // all lost to cancellation
    if (stats_ != nullptr) {
      for (const RequestPtr& request : picked) {
        const auto waited = std::max(Duration::zero(), Duration(now - request->info.arrival));
        stats_->queue_ns.record(static_cast<std::uint64_t>(waited.count()));
      }
    }
    return Batch(std::move(picked));
  }
}

void AdmissionQueue::forget(const Request& request) noexcept {
  const TimePoint now = clock_.now();
  RequestPtr removed;  // its destructor runs after the lock
  Producers woken;
  {
    MutexLock lock(mutex_);
    removed = remove_locked(request);
    if (removed != nullptr) grant_locked(now, woken);
  }
  wake(woken);
}

void AdmissionQueue::close() {
  Producers woken;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    for (Producer* producer : producers_) producer->outcome = Producer::Outcome::kClosed;
    woken.swap(producers_);
  }
  wake(woken);
}

std::size_t AdmissionQueue::fail_waiting(const std::exception_ptr& error) {
  const TimePoint now = clock_.now();
  std::vector<RequestPtr> failed;
  Producers woken;
  {
    MutexLock lock(mutex_);
    failed.reserve(list_.size());
    while (!list_.empty()) failed.push_back(remove_locked(*list_.front()));
    grant_locked(now, woken);
  }
  wake(woken);
  std::size_t count = 0;
  for (const RequestPtr& request : failed) {
    if (request->fail(error)) ++count;
  }
  return count;
}

}  // namespace torchpool
