// One call on its way from the caller to a batch and back.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "core/sync/call_order.h"
#include "core/sync/completion.h"

namespace torchpool {

class AdmissionQueue;
class DeadlineTimer;
class RequestList;
struct ChannelStats;

// Requests with equal keys may share a batch. A key has 128 bits, so that a hash of shapes and values can be a key
// without a check for collisions.
struct MergeKey {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  bool operator==(const MergeKey&) const = default;
};

// How the calls of a loop are handed to workers, in OpenMP's terms.
enum class Schedule : std::uint8_t {
  kGuided,   // little more than one worker's part of the waiting rows, so that all workers end together
  kDynamic,  // whole batches, for whichever worker is free
};

// What the batch former may know of a request.
struct RequestInfo {
  MergeKey key;
  std::int64_t rows = 1;
  std::int64_t length = 0;       // the size that padding grows to the batch's longest; 0 where nothing is padded
  std::int64_t extent = 1;       // size of one row along its ragged dims, padded or not: the row's cost grows with it
  bool padding_is_free = false;  // nothing is computed for padding: a batch costs what its rows' own extents sum up to
  std::int64_t bytes = 0;        // of its inputs
  std::int32_t priority = 0;     // higher first
  Schedule schedule = Schedule::kGuided;
  std::int64_t chunk = 0;  // kGuided: least rows of a batch; kDynamic: most rows, whatever is learned; 0: as learned
  TimePoint deadline = kNever;
  TimePoint arrival{};         // set at admission
  std::uint64_t number = 0;    // counts admissions; set at admission
  std::int64_t overtaken = 0;  // how many later requests passed this one; written by the queue only
};

enum class RequestState : std::uint8_t { kCreated, kQueued, kRunning, kSucceeded, kFailed, kCancelled, kExpired };
const char* to_string(RequestState state) noexcept;

// Legal ways: Created -> Queued -> Running -> Succeeded | Failed | Expired, Queued -> Failed | Cancelled |
// Expired, Created -> Cancelled. Each step is one compare-and-swap, so cancellation, expiry and start race safely; the
// winner of a step into a final state resolves the completion, exactly once, then calls on_resolved() on its own thread
// with no lock held.
class Request : public std::enable_shared_from_this<Request> {
 public:
  explicit Request(RequestInfo what) : info(what) {}
  virtual ~Request() = default;
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  RequestInfo info;  // constant after admission, but for `overtaken`

  RequestState state() const noexcept { return state_.load(std::memory_order_acquire); }
  bool done() const noexcept { return completion_.done(); }

  // Created -> Queued. The request counts as accepted in `stats`, which later counts how it ended. False when the
  // request was cancelled before: it then counts as accepted and cancelled. Requires: called once.
  bool mark_queued(std::shared_ptr<ChannelStats> stats) noexcept;
  bool try_start() noexcept;   // Queued -> Running
  bool try_cancel() noexcept;  // Created | Queued -> Cancelled, error() is Cancelled
  // Created -> Cancelled for a request that was refused a place: nobody is told. False when a cancellation came first.
  bool try_withdraw() noexcept;
  bool try_expire() noexcept;  // Queued | Running -> Expired, error() is DeadlineExceeded
  // As try_expire(), but before the deadline, when the request cannot meet it any more: `needed` is how long the
  // request would take alone.
  bool try_give_up(Duration left, Duration needed) noexcept;
  // succeed(): Running -> Succeeded. fail(): Queued | Running -> Failed. False when expiry came first: the result is
  // then dropped.
  bool succeed() noexcept;
  bool fail(const std::exception_ptr& error) noexcept;

  bool wait_until(Parker& parker, TimePoint until) { return completion_.wait_until(parker, until); }
  // Null on success. Requires: done().
  const std::exception_ptr& error() const noexcept { return error_; }

  // Its turn among the calls of its model, see Note [The order of calls]: kept until it is resolved and everybody that
  // has taken hold of it has let go. Requires: not queued yet.
  void keep_turn(TurnPtr turn) noexcept { turn_ = std::move(turn); }
  // For who runs the model for it, before it looks whether the request is still wanted: one that has expired may run
  // on. False when it is resolved already.
  bool hold_turn() noexcept;
  void let_go_of_turn() noexcept;

 protected:
  // Called when the request is resolved, for an owner that does not wait. Runs on the resolving thread; must not block
  // or throw.
  virtual void on_resolved() noexcept {}

 private:
  friend class AdmissionQueue;
  friend class DeadlineTimer;
  friend class RequestList;

  bool finish(RequestState from, RequestState to, const std::exception_ptr& error) noexcept;
  bool expire_with(const std::string& what) noexcept;

  std::atomic<RequestState> state_{RequestState::kCreated};
  std::exception_ptr error_;
  std::shared_ptr<ChannelStats> stats_;
  Completion completion_;
  TurnPtr turn_;
  std::atomic<int> holds_turn_{1};       // never grows again once it is 0: the request itself, until it is resolved
  std::weak_ptr<AdmissionQueue> place_;  // only with a deadline; written before the request is queued, then constant

  // Place in the list of waiting requests; belongs to that list, under its queue's mutex.
  struct Links {
    std::shared_ptr<Request> next;
    Request* previous = nullptr;
    const RequestList* list = nullptr;
  };
  mutable Links links_;
};

using RequestPtr = std::shared_ptr<Request>;

}  // namespace torchpool
