#include "core/schedule/channel.h"

#include <utility>

#include "core/schedule/scheduler.h"
#include "core/schedule/worker.h"
#include "core/sync/error.h"

namespace torchpool {
namespace {

constexpr std::int64_t kFewRows = 8;  // in flight, while no batch has told how many pay

thread_local int leases_of_this_thread = 0;

std::shared_ptr<AdmissionQueue> make_queue(const ChannelOptions& options, Clock& clock,
                                           const std::shared_ptr<ChannelStats>& stats,
                                           const std::shared_ptr<CostModel>& cost) {
  return std::make_shared<AdmissionQueue>(options.limits, clock, stats,
                                          options.make_policy ? options.make_policy(cost) : nullptr, cost);
}

}  // namespace

ChannelState::ChannelState(ChannelOptions options, std::shared_ptr<BatchHandler> batch_handler,
                           std::shared_ptr<ChannelStats> channel_stats, std::shared_ptr<Scheduler> runtime_scheduler,
                           Clock& clock)
    : name(std::move(options.name)),
      lane(options.lane),
      max_running(options.max_running),
      max_rows(options.max_rows),
      first_rows(options.first_rows > 0 ? options.first_rows : options.max_rows),
      cost(options.cost != nullptr ? options.cost : std::make_shared<CostModel>()),
      share(options.share != nullptr ? options.share : std::make_shared<FairShare>()),
      handler(std::move(batch_handler)),
      stats(channel_stats != nullptr ? std::move(channel_stats) : std::make_shared<ChannelStats>()),
      queue(make_queue(options, clock, stats, cost)),
      scheduler(std::move(runtime_scheduler)) {}

TakeLimits ChannelState::take_limits() const noexcept {
  TakeLimits limits;
  limits.batch.max_rows = max_rows.load(std::memory_order_relaxed);
  limits.first_rows = first_rows.load(std::memory_order_relaxed);
  return limits;
}

Channel::Channel(std::shared_ptr<ChannelState> state) : state_(std::move(state)) {}

Channel::~Channel() {
  close(true);
  const bool shares_handler = state_->handler.use_count() > 0;
  if (!shares_handler && scheduler_of_this_thread() == nullptr) wait_drained(kNever);
}

PushResult Channel::submit(const RequestPtr& request, Admission admission, TimePoint give_up) {
  const PushResult result = state_->queue->push(request, admission, give_up);
  if (result == PushResult::kAdmitted) state_->scheduler->notify(state_);
  return result;
}

bool Channel::has_room(const RequestInfo& info) {
  return state_->queue->has_room(info);
}

bool Channel::cancel(Request& request) noexcept {
  if (!request.try_cancel()) return false;
  state_->queue->forget(request);
  if (state_->queue->waiting() == 0) state_->scheduler->notify_drained(*state_);
  return true;
}

void Channel::close(bool fail_waiting) {
  state_->open.store(false);
  state_->queue->close();
  if (fail_waiting) {
    state_->failing.store(true);
    state_->queue->fail_waiting(std::make_exception_ptr(Closed("closed before the call started")));
  }
  state_->scheduler->release(state_);  // only now: a worker would start what was on hold
  if (fail_waiting) state_->scheduler->notify_drained(*state_);
}

bool Channel::wait_drained(TimePoint until) {
  return state_->scheduler->wait_drained(*state_, until);
}

void Channel::set_rows(std::int64_t first, std::int64_t most) noexcept {
  state_->first_rows.store(first, std::memory_order_relaxed);
  state_->max_rows.store(most, std::memory_order_relaxed);
}

void Channel::set_policy(std::unique_ptr<BatchPolicy> policy) {
  state_->queue->set_policy(std::move(policy));
  state_->scheduler->release(state_);
}

const CostModel& Channel::cost() const noexcept {
  return *state_->cost;
}

void Channel::record_inline(const BatchSize& size, Duration took, bool one_core) noexcept {
  state_->cost->record(size, took, one_core || state_->scheduler->cores() == 1);
}

std::shared_ptr<const CostModel> Channel::shared_cost() const noexcept {
  return state_->cost;
}

std::int64_t Channel::waiting_rows() const noexcept {
  return state_->queue->waiting_rows();
}

std::int64_t Channel::useful_rows() const noexcept {
  if (state_->max_rows.load(std::memory_order_relaxed) <= 1) return 0;
  const std::int64_t learned = state_->queue->useful_rows();
  return learned > 0 ? learned : kFewRows;
}

int Channel::running() const noexcept {
  return state_->running.load(std::memory_order_relaxed);
}

InlineLease::InlineLease(std::shared_ptr<ChannelState> state, InlineKind kind) noexcept
    : state_(std::move(state)), kind_(kind) {
  ++leases_of_this_thread;
}

bool InlineLease::held_by_this_thread() noexcept {
  return leases_of_this_thread > 0;
}

InlineLease& InlineLease::operator=(InlineLease&& other) noexcept {
  if (this == &other) return *this;
  give_back();
  state_ = std::move(other.state_);
  kind_ = other.kind_;
  return *this;
}

void InlineLease::give_back_cores() noexcept {
  if (state_ == nullptr || kind_ != InlineKind::kAllCores) return;
  state_->scheduler->end_all_cores();
  kind_ = InlineKind::kPlace;
}

void InlineLease::give_back() noexcept {
  if (state_ == nullptr) return;
  --leases_of_this_thread;
  state_->scheduler->end_inline(state_, kind_);
  state_.reset();
}

}  // namespace torchpool
