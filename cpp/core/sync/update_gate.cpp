#include "core/sync/update_gate.h"

#include <utility>

namespace torchpool {

namespace {

thread_local const InGate* innermost = nullptr;

}  // namespace

InGate::InGate(const UpdateGate* gate) noexcept : gate_(gate), outer_(std::exchange(innermost, this)) {}

InGate::~InGate() {
  innermost = outer_;
}

bool InGate::closing_around_this_thread() noexcept {
  for (const InGate* in = innermost; in != nullptr; in = in->outer_) {
    if (in->gate_ != nullptr && (in->gate_->word_.load(std::memory_order_acquire) & UpdateGate::kClosing) != 0) {
      return true;
    }
  }
  return false;
}

bool UpdateGate::entered_by_this_thread() const noexcept {
  for (const InGate* in = innermost; in != nullptr; in = in->outer_) {
    if (in->gate_ == this) return true;
  }
  return false;
}

bool UpdateGate::full(std::uint64_t word) const noexcept {
  return word >= kRun && one_at_a_time_.load(std::memory_order_acquire) && !entered_by_this_thread();
}

bool UpdateGate::try_enter() noexcept {
  std::uint64_t word = word_.load(std::memory_order_relaxed);
  for (;;) {
    if ((word & kHeld) != 0 || full(word)) return false;
    if ((word & kClosing) != 0 && !InGate::closing_around_this_thread()) return false;
    if (word_.compare_exchange_weak(word, word + kRun, std::memory_order_acquire, std::memory_order_relaxed)) {
      return true;
    }
  }
}

bool UpdateGate::enter(Clock& clock, TimePoint until) {
  if (try_enter()) return true;
  MutexLock lock(mutex_);
  while (!try_enter()) {
    if (until != kNever && clock.now() >= until) return false;
    clock.wait_until(changed_, mutex_, until);
  }
  return true;
}

void UpdateGate::leave() noexcept {
  const std::uint64_t left = word_.fetch_sub(kRun, std::memory_order_release) - kRun;
  if (left == kClosing || (left == 0 && admits_one_at_a_time())) change_state(0, 0);
}

void UpdateGate::tell_when_open(std::shared_ptr<Event> event) {
  {
    MutexLock lock(mutex_);
    const std::uint64_t word = word_.load(std::memory_order_acquire);
    if ((word & (kHeld | kClosing)) != 0 || full(word)) {
      told_.push_back(std::move(event));
      return;
    }
  }
  event->set();
}

void UpdateGate::change_state(std::uint64_t set, std::uint64_t clear) noexcept {
  std::vector<std::shared_ptr<Event>> told;
  {
    MutexLock lock(mutex_);
    word_.fetch_or(set, std::memory_order_acq_rel);
    const std::uint64_t now = word_.fetch_and(~clear, std::memory_order_acq_rel) & ~clear;
    if ((now & (kHeld | kClosing)) == 0) told.swap(told_);
    changed_.notify_all();
  }
  for (const auto& event : told) event->set();
}

bool UpdateGate::try_hold() noexcept {
  std::uint64_t empty = kClosing;
  return word_.compare_exchange_strong(empty, kClosing | kHeld, std::memory_order_acq_rel);
}

bool UpdateGate::wait_empty(Clock& clock, TimePoint until) {
  MutexLock lock(mutex_);
  for (;;) {
    const std::uint64_t word = word_.load(std::memory_order_acquire);
    if (word < kRun && (word & kHeld) == 0) return true;
    if (until != kNever && clock.now() >= until) return false;
    clock.wait_until(changed_, mutex_, until);
  }
}

// All at once: a run inside of another's may be in the second gate when the first is empty.
bool UpdateGate::take_all(Gates gates, Clock& clock, TimePoint until) {
  for (;;) {
    for (const auto& gate : gates) gate->change_state(kClosing, 0);
    std::size_t held = 0;
    while (held < gates.size() && gates[held]->try_hold()) ++held;
    if (held == gates.size()) break;
    for (std::size_t i = 0; i < held; ++i) gates[i]->change_state(0, kHeld);
    if (!gates[held]->wait_empty(clock, until) || (until != kNever && clock.now() >= until)) return false;
  }
  for (const auto& gate : gates) gate->holder_.store(std::this_thread::get_id());
  return true;
}

void UpdateGate::hold(bool here) noexcept {
  holder_.store(here ? std::this_thread::get_id() : std::thread::id());
  word_.fetch_or(kClosing | kHeld, std::memory_order_acq_rel);
}

void UpdateGate::open_all(Gates gates) noexcept {
  for (const auto& gate : gates) gate->holder_.store({});
  for (const auto& gate : gates) gate->change_state(0, kHeld | kClosing);
}

Event* GatePass::enter() {
  if (gate_ == nullptr || entry_) return nullptr;
  if (gate_->try_enter()) {
    entry_ = GateEntry(gate_);
    return nullptr;
  }
  opened_ = std::make_shared<Event>();
  gate_->tell_when_open(opened_);
  return opened_.get();
}

}  // namespace torchpool
