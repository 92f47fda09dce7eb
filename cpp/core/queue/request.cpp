#include "core/queue/request.h"

#include <utility>

#include "core/schedule/stats.h"
#include "core/sync/error.h"

namespace torchpool {

const char* to_string(RequestState state) noexcept {
  switch (state) {
    case RequestState::kCreated:
      return "created";
    case RequestState::kQueued:
      return "queued";
    case RequestState::kRunning:
      return "running";
    case RequestState::kSucceeded:
      return "succeeded";
    case RequestState::kFailed:
      return "failed";
    case RequestState::kCancelled:
      return "cancelled";
    case RequestState::kExpired:
      return "expired";
  }
  return "unknown";
}

bool Request::mark_queued(std::shared_ptr<ChannelStats> stats) noexcept {
  stats_ = std::move(stats);
  // Counted before the step: from then on another thread may resolve it, and accepted must not lag behind
  // resolved.
  if (stats_ != nullptr) stats_->accepted.fetch_add(1, std::memory_order_relaxed);
  RequestState expected = RequestState::kCreated;
  if (state_.compare_exchange_strong(expected, RequestState::kQueued, std::memory_order_acq_rel)) return true;
  if (stats_ != nullptr) stats_->cancelled.fetch_add(1, std::memory_order_relaxed);
  return false;
}

bool Request::try_start() noexcept {
  RequestState expected = RequestState::kQueued;
  return state_.compare_exchange_strong(expected, RequestState::kRunning, std::memory_order_acq_rel);
}

bool Request::try_cancel() noexcept {
  const RequestState seen = state();
  if (seen != RequestState::kCreated && seen != RequestState::kQueued) return false;
  const auto error = std::make_exception_ptr(Cancelled("the call was cancelled before it started"));
  return finish(RequestState::kCreated, RequestState::kCancelled, error) ||
         finish(RequestState::kQueued, RequestState::kCancelled, error);
}

bool Request::try_withdraw() noexcept {
  RequestState expected = RequestState::kCreated;
  return state_.compare_exchange_strong(expected, RequestState::kCancelled, std::memory_order_acq_rel);
}

bool Request::try_expire() noexcept {
  return expire_with("the deadline of the call passed");
}

bool Request::try_give_up(Duration left, Duration needed) noexcept {
  const auto milliseconds = [](Duration time) {
    return std::to_string(std::chrono::duration<double, std::milli>(time).count()) + " ms";
  };
  return expire_with("the deadline of the call cannot be met any more: " + milliseconds(left) +
                     " are left, and it takes " + milliseconds(needed) + " alone");
}

bool Request::expire_with(const std::string& what) noexcept {
  const RequestState seen = state();
  if (seen != RequestState::kQueued && seen != RequestState::kRunning) return false;
  const auto error = std::make_exception_ptr(DeadlineExceeded(what));
  return finish(RequestState::kQueued, RequestState::kExpired, error) ||
         finish(RequestState::kRunning, RequestState::kExpired, error);
}

bool Request::succeed() noexcept {
  return finish(RequestState::kRunning, RequestState::kSucceeded, nullptr);
}

bool Request::fail(const std::exception_ptr& error) noexcept {
  return finish(RequestState::kQueued, RequestState::kFailed, error) ||
         finish(RequestState::kRunning, RequestState::kFailed, error);
}

bool Request::hold_turn() noexcept {
  int holders = holds_turn_.load(std::memory_order_relaxed);
  while (holders > 0) {
    if (holds_turn_.compare_exchange_weak(holders, holders + 1, std::memory_order_acquire)) return true;
  }
  return false;
}

void Request::let_go_of_turn() noexcept {
  if (holds_turn_.fetch_sub(1, std::memory_order_acq_rel) == 1) turn_.reset();
}

bool Request::finish(RequestState from, RequestState to, const std::exception_ptr& error) noexcept {
  if (!state_.compare_exchange_strong(from, to, std::memory_order_acq_rel)) return false;
  error_ = error;
  // Before it is queued, `stats_` belongs to mark_queued(), which counts for both.
  if (from != RequestState::kCreated && stats_ != nullptr) {
    std::atomic<std::uint64_t>& counter = to == RequestState::kSucceeded   ? stats_->succeeded
                                          : to == RequestState::kFailed    ? stats_->failed
                                          : to == RequestState::kCancelled ? stats_->cancelled
                                                                           : stats_->expired;
    counter.fetch_add(1, std::memory_order_relaxed);
  }
  let_go_of_turn();
  completion_.resolve();
  on_resolved();
  return true;
}

}  // namespace torchpool
