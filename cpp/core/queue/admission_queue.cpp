#include "core/queue/admission_queue.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/sync/error.h"
#include "core/sync/parker.h"

namespace torchpool {
namespace {

std::size_t window_size(const BatchLimits& limits) {
  return static_cast<std::size_t>(std::clamp<std::int64_t>(limits.max_rows, 8, 512) * 8);
}

}  // namespace

// Whoever changes `outcome` under the queue's mutex then unparks once; the producer leaves only with that
// permit, or after it has taken itself out of the line. One that is lined up has no thread, and is owned by the line.
struct AdmissionQueue::Producer {
  Producer(RequestPtr waiting, Clock& clock, bool has_thread)
      : request(std::move(waiting)), parker(clock), lined_up(!has_thread) {}
  enum class Outcome : std::uint8_t { kWaiting, kAdmitted, kClosed };
  RequestPtr request;
  Parker parker;
  const bool lined_up;
  Outcome outcome = Outcome::kWaiting;
  Producers::iterator place{};
};

AdmissionQueue::AdmissionQueue(QueueLimits limits, Clock& clock, std::shared_ptr<ChannelStats> stats,
                               std::unique_ptr<BatchPolicy> policy, std::shared_ptr<const CostModel> cost)
    : limits_(limits), clock_(clock), stats_(std::move(stats)), cost_(std::move(cost)), policy_(std::move(policy)) {}

AdmissionQueue::~AdmissionQueue() {
  fail_waiting(std::make_exception_ptr(Closed("closed before the call started")));
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
  if (line_.empty() && fits_locked(request->info)) {
    admit_locked(request, now);
    publish_locked();
    return true;
  }
  if (admission == Admission::kReject || admission == Admission::kTry) {
    if (stats_ != nullptr && admission == Admission::kReject) stats_->rejected.fetch_add(1, std::memory_order_relaxed);
    throw QueueFull("the queue is full: " + std::to_string(waiting_rows()) + " rows wait");
  }
  if (admission != Admission::kLineUp) return false;
  auto producer = std::make_unique<Producer>(request, clock_, false);
  request->info.arrival = now;
  if (request->info.deadline != kNever) request->place_ = weak_from_this();
  line_.push_back(nullptr);  // first what may fail for want of memory
  if (request->mark_queued(stats_)) {
    line_.back() = producer.release();
  } else {
    line_.pop_back();
  }
  return true;
}

PushResult AdmissionQueue::push_blocked(const RequestPtr& request, TimePoint give_up) {
  Producer producer(request, clock_, true);
  {
    MutexLock lock(mutex_);
    if (admit_at_once_locked(request, Admission::kBlock, clock_.now())) return PushResult::kAdmitted;
    producer.place = line_.insert(line_.end(), &producer);
  }
  const TimePoint deadline = request->info.deadline;
  if (!producer.parker.park_until(std::min(give_up, deadline))) {
    const TimePoint now = clock_.now();
    bool left_line = false;
    Left left;
    {
      MutexLock lock(mutex_);
      if (producer.outcome == Producer::Outcome::kWaiting) {
        line_.erase(producer.place);
        left_line = true;
        grant_locked(now, left);  // the next in line may be smaller
      }
    }
    wake(left.woken);
    if (left_line && deadline <= now) throw DeadlineExceeded("the deadline of the call passed before it was queued");
    if (left_line) return PushResult::kTimedOut;
    producer.parker.park();
  }
  if (producer.outcome == Producer::Outcome::kClosed) throw Closed("closed while the call waited for a place");
  return PushResult::kAdmitted;
}

bool AdmissionQueue::has_room(const RequestInfo& info) {
  MutexLock lock(mutex_);
  return line_.empty() && fits_locked(info);
}

bool AdmissionQueue::fits_locked(const RequestInfo& info) const {
  if (requests_.empty()) return true;
  return waiting_rows() + info.rows <= limits_.rows && bytes_ + info.bytes <= limits_.bytes;
}

void AdmissionQueue::admit_locked(const RequestPtr& request, TimePoint now) {
  request->info.arrival = now;
  if (request->info.deadline != kNever) request->place_ = weak_from_this();
  if (request->mark_queued(stats_)) place_locked(request);
}

void AdmissionQueue::place_locked(const RequestPtr& request) {
  const RequestInfo& info = request->info;
  // The mean of the last sixteen or so; a pause counts as a tenth of a second at most, so that it is soon forgotten.
  constexpr Duration kPause = std::chrono::milliseconds(100);
  if (last_arrival_ != TimePoint{}) {
    const Duration gap = std::clamp<Duration>(info.arrival - last_arrival_, Duration(1), kPause);
    arrival_gap_ = arrival_gap_ == Duration::zero() ? gap : arrival_gap_ + (gap - arrival_gap_) / 16;
  }
  last_arrival_ = std::max(last_arrival_, info.arrival);  // one that was lined up came long before
  request->info.number = ++admitted_;
  bytes_ += info.bytes;
  rows_.store(rows_.load(std::memory_order_relaxed) + info.rows);
  requests_.push(request);
}

RequestPtr AdmissionQueue::remove_locked(const Request& request) {
  RequestPtr removed = requests_.remove(request);
  if (removed == nullptr) return removed;
  bytes_ -= request.info.bytes;
  rows_.store(rows_.load(std::memory_order_relaxed) - request.info.rows);
  return removed;
}

// Only now: whoever looks without the lock must not see a queue empty that those in line are about to fill.
void AdmissionQueue::publish_locked() {
  count_.store(requests_.size());
}

void AdmissionQueue::grant_locked(TimePoint now, Left& left, const Request* leaving) {
  while (!line_.empty()) {
    Producer& producer = *line_.front();
    const Request* const request = producer.request.get();
    const bool gone = producer.lined_up && (request == leaving || request->state() != RequestState::kQueued);
    if (!gone && !fits_locked(request->info)) break;
    if (!producer.lined_up) {
      admit_locked(producer.request, now);
      producer.outcome = Producer::Outcome::kAdmitted;
      left.woken.splice(left.woken.end(), line_, line_.begin());
      continue;
    }
    const std::unique_ptr<Producer> owned(&producer);
    line_.pop_front();
    if (gone) {
      left.dropped.push_back(std::move(producer.request));  // its destructor runs after the lock
    } else {
      place_locked(producer.request);
    }
  }
  publish_locked();
}

void AdmissionQueue::wake(const Producers& woken) {
  for (Producer* producer : woken) producer->parker.unpark();
}

Duration AdmissionQueue::needed_alone(const Request& request) const noexcept {
  return cost_ == nullptr ? Duration::zero() : cost_->estimate_alone(request.info.rows, request.info.extent);
}

bool AdmissionQueue::drop_locked(Request& request, TimePoint now, std::vector<RequestPtr>& dropped) {
  const TimePoint deadline = request.info.deadline;
  if (request.state() == RequestState::kQueued && (deadline == kNever || deadline - needed_alone(request) > now)) {
    return false;
  }
  dropped.push_back(remove_locked(request));
  return true;
}

void AdmissionQueue::settle_dropped(const std::vector<RequestPtr>& dropped, TimePoint now) const noexcept {
  for (const RequestPtr& request : dropped) {
    if (request->info.deadline == kNever) continue;
    if (request->info.deadline > now) {
      request->try_give_up(request->info.deadline - now, needed_alone(*request));
    } else {
      request->try_expire();
    }
  }
}

// The common case at no more than one look per request taken: nothing has a priority or a deadline, and the
// head of the queue is alike for as long as a batch is. Gives what form_batch would give for the whole
// window, or false.
bool AdmissionQueue::collect_uniform_locked(const BatchLimits& limits, TimePoint now, std::vector<RequestPtr>& picked,
                                            std::vector<RequestPtr>& dropped) {
  const std::int64_t most = row_limit(limits);
  const RequestInfo* seed = nullptr;
  std::int64_t rows = 0;
  window_.clear();
  Request* following = nullptr;
  for (Request* request = requests_.front_of_list(); request != nullptr && rows < most; request = following) {
    following = RequestList::next(*request);
    if (drop_locked(*request, now, dropped)) continue;
    const RequestInfo& info = request->info;
    if (seed == nullptr) seed = &info;
    if (info.key != seed->key || info.length != seed->length) return false;
    if (rows > 0 && rows + info.rows > most) break;
    rows += info.rows;
    window_.push_back(request);
  }
  if (window_.empty()) return false;
  picked.reserve(window_.size());
  for (Request* request : window_) picked.push_back(remove_locked(*request));
  return true;
}

void AdmissionQueue::collect_locked(const BatchLimits& limits, TimePoint now, std::vector<RequestPtr>& picked,
                                    std::vector<RequestPtr>& dropped) {
  if (collect_uniform_locked(limits, now, picked, dropped)) return;
  requests_.first(window_size(limits), window_);
  std::erase_if(window_, [&](Request* request) TP_NO_ANALYSIS { return drop_locked(*request, now, dropped); });
  infos_.clear();
  for (const Request* request : window_) infos_.push_back(&request->info);
  const std::vector<std::size_t> taken = form_batch(infos_, limits, {now, cost_.get(), waiting_rows()});
  if (taken.empty()) return;
  count_overtaken_locked(taken);
  picked.reserve(taken.size());
  for (const std::size_t i : taken) picked.push_back(remove_locked(*window_[i]));
}

// Of those in the window that were left, each has been overtaken by the later ones that were taken.
void AdmissionQueue::count_overtaken_locked(const std::vector<std::size_t>& taken) {
  std::size_t earlier = 0;  // of those taken
  for (std::size_t i = 0; i < taken.back(); ++i) {
    if (taken[earlier] == i) {
      ++earlier;
    } else {
      window_[i]->info.overtaken += static_cast<std::int64_t>(taken.size() - earlier);
    }
  }
}

QueueView AdmissionQueue::view_locked(const TakeLimits& limits) const {
  QueueView view;
  view.first_rows = limits.first_rows;
  view.max_rows = limits.batch.max_rows;
  view.workers = limits.workers;
  view.waiting_rows = rows_.load(std::memory_order_relaxed);
  if (const Request* first = requests_.front()) {
    view.length = first->info.extent;
    view.schedule = first->info.schedule;
    view.chunk = first->info.chunk;
  }
  view.oldest = requests_.oldest_arrival();
  view.newest = last_arrival_;
  view.arrival_gap = arrival_gap_;
  return view;
}

TimePoint AdmissionQueue::hold_until_locked(const QueueView& view, TimePoint now) {
  // Where some wait for room, no more can come.
  if (closed_ || !line_.empty() || view.waiting_rows >= view.max_rows) return now;
  const TimePoint until = policy_->hold_until(view, now);
  const TimePoint due = requests_.first_due();
  if (until <= now || due == kNever) return until;
  const Duration takes = cost_ == nullptr ? Duration::zero() : cost_->estimate(view.waiting_rows, view.length);
  // What takes nobody knows how long is not held until it is too late.
  if (takes == Duration::zero()) return due <= until ? now : until;
  return std::min(until, due - takes - takes / 8);
}

TimePoint AdmissionQueue::hold_until(const TakeLimits& limits) {
  const TimePoint now = clock_.now();
  MutexLock lock(mutex_);
  if (policy_ == nullptr || requests_.empty()) return TimePoint{};
  const QueueView view = view_locked(limits);
  const TimePoint until = hold_until_locked(view, now);
  return until > now ? until : TimePoint{};
}

Taken AdmissionQueue::take(const TakeLimits& limits) {
  for (;;) {
    Taken taken;
    std::vector<RequestPtr> picked;
    std::vector<RequestPtr> dropped;
    Left left;
    const TimePoint now = clock_.now();
    {
      MutexLock lock(mutex_);
      if (requests_.empty()) return taken;
      BatchLimits batch = limits.batch;
      std::int64_t full = batch.max_rows;
      if (policy_ != nullptr) {
        const QueueView view = view_locked(limits);
        const RowLimit limit = policy_->rows(view);
        full = policy_->full_rows(view);
        batch.max_rows = std::min(limit.rows, view.max_rows);
        taken.limit = limit.learn ? limit.rows : 0;
        const std::int64_t rows = std::min(view.waiting_rows, batch.max_rows);
        const bool together = !policy_->shares() || (batch.share_rows > 0 && cost_ != nullptr &&
                                                     cost_->better_together(rows, batch.share_rows, view.length));
        if (together || view.schedule == Schedule::kDynamic) batch.share_rows = 0;
        if (batch.share_rows > 0) batch.share_rows = std::max(batch.share_rows, view.chunk);
        taken.hold_until = hold_until_locked(view, now);
        if (taken.hold_until > now) return taken;
      }
      useful_rows_.store(full * (limits.workers + 1), std::memory_order_relaxed);
      collect_locked(batch, now, picked, dropped);
      grant_locked(now, left);
    }
    wake(left.woken);
    settle_dropped(dropped, now);
    std::erase_if(picked, [](const RequestPtr& request) { return !request->try_start(); });
    if (picked.empty()) continue;  // all dropped, or lost to cancellation
    if (stats_ != nullptr) {
      for (const RequestPtr& request : picked) {
        const auto waited = std::max(Duration::zero(), Duration(now - request->info.arrival));
        stats_->queue_ns.record(static_cast<std::uint64_t>(waited.count()));
      }
    }
    taken.batch = Batch(std::move(picked));
    return taken;
  }
}

void AdmissionQueue::forget(const Request& request) noexcept {
  const TimePoint now = clock_.now();
  RequestPtr removed;  // its destructor runs after the lock
  Left left;
  {
    MutexLock lock(mutex_);
    removed = remove_locked(request);
    grant_locked(now, left, &request);  // also where it was the first in line, and the next one is smaller
  }
  wake(left.woken);
}

void AdmissionQueue::close() {
  Producers woken;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    for (auto place = line_.begin(); place != line_.end();) {
      const auto following = std::next(place);
      if (!(*place)->lined_up) {
        (*place)->outcome = Producer::Outcome::kClosed;
        woken.splice(woken.end(), line_, place);
      }
      place = following;
    }
  }
  wake(woken);
}

std::size_t AdmissionQueue::fail_waiting(const std::exception_ptr& error) {
  const TimePoint now = clock_.now();
  std::vector<RequestPtr> failed;
  Left left;
  {
    MutexLock lock(mutex_);
    failed.reserve(requests_.size());
    while (!requests_.empty()) failed.push_back(remove_locked(*requests_.front()));
    // Those lined up wait, too; the others have not been accepted.
    for (auto place = line_.begin(); place != line_.end();) {
      const auto following = std::next(place);
      if ((*place)->lined_up) {
        failed.push_back(std::move((*place)->request));
        delete *place;
        line_.erase(place);
      }
      place = following;
    }
    grant_locked(now, left);
  }
  wake(left.woken);
  std::size_t count = 0;
  for (const RequestPtr& request : failed) {
    if (request->fail(error)) ++count;
  }
  return count;
}

void AdmissionQueue::set_policy(std::unique_ptr<BatchPolicy> policy) {
  MutexLock lock(mutex_);
  policy_.swap(policy);
}

}  // namespace torchpool
