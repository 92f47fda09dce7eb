#include "bindings/interpreter/resolver.h"

#include "core/sync/thread.h"

namespace torchpool {

namespace {
thread_local bool is_resolver_thread = false;
}

void Unnotified::Ticket::give_back() noexcept {
  const std::shared_ptr<Unnotified> counter = std::move(counter_);
  if (counter == nullptr || counter->count_.fetch_sub(1) > 1) return;
  MutexLock lock(counter->mutex_);
  counter->none_.notify_all();
}

bool Unnotified::wait_none(TimePoint until) {
  MutexLock lock(mutex_);
  while (count_.load() > 0) {
    if (Clock::steady().now() >= until) return false;
    Clock::steady().wait_until(none_, mutex_, until);
  }
  return true;
}

bool Resolver::on_resolver_thread() noexcept {
  return is_resolver_thread;
}

void Resolver::start() {
  if (started_.load(std::memory_order_acquire)) return;
  MutexLock lock(mutex_);
  if (!closed_ && !thread_.joinable()) thread_ = start_thread([this] { run(); });
  started_.store(true, std::memory_order_release);
}

void Resolver::push(NotifiedNode notified) noexcept {
  if (notified.empty()) return;
  MutexLock lock(mutex_);
  // After close() nobody is told any more, so that nobody may wait for it; the object waits for a thread that may drop
  // it.
  if (closed_ && !thread_.joinable()) notified.front().ticket = {};
  waiting_.splice(waiting_.end(), notified);
  if (waiting_.size() == 1) ready_.notify_one();
}

void Resolver::close() {
  std::thread thread;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    thread.swap(thread_);
    ready_.notify_one();
  }
  if (thread.joinable()) thread.join();
}

void Resolver::run() {
  is_resolver_thread = true;
  GilGate gate;
  std::list<Notified> lot;
  for (;;) {
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && !closed_) ready_.wait(mutex_);
      if (waiting_.empty()) break;
    }
    gate.enter();  // before the lot is taken: it grows while the lock is waited for
    {
      MutexLock lock(mutex_);
      lot.swap(waiting_);
    }
    try {
      py::list notified(lot.size());
      std::size_t i = 0;
      for (const Notified& one : lot) notified[i++] = borrow(one.object);
      borrow(handler_)(notified);
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("torchpool: notifying of finished requests");
    }
    lot.clear();
    gate.leave();
  }
  GilGate::stop_thread();
}

}  // namespace torchpool
