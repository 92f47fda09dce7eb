// Tells Python of requests that are done: a thread of its own, so that workers never wait for the interpreter's lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <thread>
#include <utility>

#include "bindings/interpreter/gil.h"
#include "core/sync/clock.h"
#include "core/sync/mutex.h"
#include "predict/batch/call_request.h"

namespace torchpool {

// Counts the requests of one predictor that are to be notified of and have not been.
class Unnotified {
 public:
  // Counted from its making to its destruction.
  class Ticket {
   public:
    Ticket() = default;
    explicit Ticket(std::shared_ptr<Unnotified> counter) noexcept : counter_(std::move(counter)) {
      counter_->count_.fetch_add(1, std::memory_order_relaxed);
    }
    Ticket(Ticket&&) noexcept = default;
    Ticket& operator=(Ticket&& other) noexcept {
      give_back();
      counter_ = std::move(other.counter_);
      return *this;
    }
    ~Ticket() { give_back(); }

   private:
    void give_back() noexcept;
    std::shared_ptr<Unnotified> counter_;
  };

  bool wait_none(TimePoint until) TP_EXCLUDES(mutex_);

 private:
  std::atomic<std::int64_t> count_{0};
  Mutex mutex_;
  CondVar none_;
};

// What a resolver hands to its handler.
struct Notified {
  PyRef object;
  Unnotified::Ticket ticket;
};

// One of them, or none. It is allocated with its request, before that is admitted: to hand it on takes no memory.
using NotifiedNode = std::list<Notified>;

// Collects what is to be notified and hands it to `handler(list)` in lots: one hold of the lock for many. Futures and
// asyncio have one each, so that a slow callback of a future delays no event loop.
class Resolver {
 public:
  explicit Resolver(py::object handler) : handler_(make_ref(std::move(handler))) {}
  // Starts the thread, unless it runs or close() was called. Throws NoThread. To be called before a request is admitted
  // that is pushed here: afterwards nothing may fail.
  void start() TP_EXCLUDES(mutex_);
  // Never blocks on the interpreter's lock. Requires: start() was called.
  void push(NotifiedNode notified) noexcept TP_EXCLUDES(mutex_);
  // Hands over what is left and ends the thread. Requires that the lock is not held. Idempotent.
  void close() TP_EXCLUDES(mutex_);
  // True on a thread of any resolver: what runs there must not wait for another request.
  static bool on_resolver_thread() noexcept;

 private:
  void run() TP_EXCLUDES(mutex_);

  PyRef handler_;
  std::atomic<bool> started_{false};  // or closed; written under the mutex
  Mutex mutex_;
  CondVar ready_;
  std::list<Notified> waiting_ TP_GUARDED_BY(mutex_);
  bool closed_ TP_GUARDED_BY(mutex_) = false;
  std::thread thread_ TP_GUARDED_BY(mutex_);
};

// A request that notifies a resolver instead of waking a waiter only.
class NotifyingRequest : public CallRequest {
 public:
  NotifyingRequest(const RequestInfo& facts, Reclaimer& reclaimer, std::shared_ptr<Resolver> resolver,
                   Notified notified)
      : CallRequest(facts, reclaimer), resolver_(std::move(resolver)) {
    notified_.push_back(std::move(notified));
  }

  void forget_notified() noexcept override { notified_.clear(); }

 protected:
  void on_resolved() noexcept override { resolver_->push(std::move(notified_)); }

 private:
  std::shared_ptr<Resolver> resolver_;
  NotifiedNode
      notified_;  // its object often refers back to this request; handed on at the end, so the cycle ends there
};

}  // namespace torchpool
