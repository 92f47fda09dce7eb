#include "core/queue/deadline_timer.h"

#include <algorithm>
#include <new>
#include <utility>

#include "core/queue/admission_queue.h"
#include "core/sync/error.h"
#include "core/sync/thread.h"

namespace torchpool {

void DeadlineTimer::start() {
  MutexLock lock(mutex_);
  start_locked();
}

void DeadlineTimer::start_locked() {
  if (!stopping_ && !thread_.joinable()) thread_ = start_thread([this] { run(); });
}

void DeadlineTimer::watch(const RequestPtr& request) noexcept {
  const TimePoint deadline = request->info.deadline;
  if (deadline == kNever) return;
  MutexLock lock(mutex_);
  if (stopping_) return;
  if (heap_.size() >= sweep_at_) sweep_locked();
  const bool first = heap_.empty() || deadline < heap_.front().deadline;
  try {
    heap_.push_back({deadline, request});
    std::push_heap(heap_.begin(), heap_.end());
    start_locked();
  } catch (const std::bad_alloc&) {
    return;
  } catch (const NoThread&) {
    return;  // it is watched once the thread has started
  }
  if (first) changed_.notify_one();
}

// A weak reference keeps the memory of its request: what is gone is dropped once it may be half of the heap.
void DeadlineTimer::sweep_locked() {
  std::erase_if(heap_, [](const Entry& entry) { return entry.request.expired(); });
  std::make_heap(heap_.begin(), heap_.end());
  sweep_at_ = std::max(kFirstSweep, heap_.size() * 2);
}

void DeadlineTimer::stop() {
  std::thread thread;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    thread = std::move(thread_);
    changed_.notify_one();
  }
  if (thread.joinable()) thread.join();
}

DeadlineTimer::Entry DeadlineTimer::pop_locked() {
  std::pop_heap(heap_.begin(), heap_.end());
  Entry entry = std::move(heap_.back());
  heap_.pop_back();
  return entry;
}

// Forgets the first one if it needs no watching any more; false: it does. Most are resolved some time before their
// deadlines, and there may be thousands a second: to wake up for each would take time from the workers.
bool DeadlineTimer::drop_resolved() {
  std::weak_ptr<Request> first;
  {
    MutexLock lock(mutex_);
    if (stopping_ || heap_.empty()) return false;
    first = heap_.front().request;
  }
  const RequestPtr request = first.lock();  // may become the last reference, so that it goes after the lock
  if (request != nullptr && !request->done()) return false;
  MutexLock lock(mutex_);
  if (heap_.empty()) return false;
  const std::weak_ptr<Request>& now_first = heap_.front().request;
  if (!first.owner_before(now_first) && !now_first.owner_before(first)) pop_locked();
  return true;
}

void DeadlineTimer::run() {
  for (;;) {
    while (drop_resolved()) {
    }
    std::vector<Entry> due;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && (heap_.empty() || heap_.front().deadline > clock_.now())) {
        clock_.wait_until(changed_, mutex_, heap_.empty() ? kNever : heap_.front().deadline);
      }
      if (stopping_) {
        due.swap(heap_);
        return;
      }
      const TimePoint now = clock_.now();
      while (!heap_.empty() && heap_.front().deadline <= now) due.push_back(pop_locked());
    }
    for (const Entry& entry : due) {
      if (const RequestPtr request = entry.request.lock()) expire(request);
    }
  }
}

void DeadlineTimer::expire(const RequestPtr& request) noexcept {
  // The place first: who is told of the expiry may submit at once, and must find it free. A worker that has just taken
  // the request races for it by compare-and-swap, as ever.
  if (const std::shared_ptr<AdmissionQueue> queue = request->place_.lock()) queue->forget(*request);
  request->try_expire();
}

}  // namespace torchpool
