#include "core/sync/call_order.h"

#include <utility>

namespace torchpool {

namespace {

// Where the destructor of a turn puts the one that follows it, while an outer one runs on this thread: many may be over
// at once, and would nest as deeply.
thread_local TurnPtr* handed_on = nullptr;

}  // namespace

Turn::~Turn() {
  TurnPtr next = take_next();
  if (next == nullptr) return;
  next->set_open();
  if (handed_on != nullptr) {
    *handed_on = std::move(next);
    return;
  }
  TurnPtr after;
  handed_on = &after;
  while (next != nullptr) {
    next.reset();
    next.swap(after);
  }
  handed_on = nullptr;
}

bool Turn::wait_open(Clock& clock, TimePoint until) {
  if (open()) return true;
  MutexLock lock(mutex_);
  while (!open()) {
    if (until != kNever && clock.now() >= until) return false;
    clock.wait_until(opened_, mutex_, until);
  }
  return true;
}

void Turn::overtake() noexcept {
  if (const TurnPtr before = before_.lock()) {
    const TurnPtr self = before->take_next();
    set_open();
    return;
  }
  set_open();
}

void Turn::follow_with(TurnPtr next) noexcept {
  MutexLock lock(mutex_);
  next_ = std::move(next);
}

TurnPtr Turn::take_next() noexcept {
  MutexLock lock(mutex_);
  return std::exchange(next_, nullptr);
}

void Turn::set_open() noexcept {
  MutexLock lock(mutex_);
  open_.store(true, std::memory_order_release);
  opened_.notify_all();
}

TurnPtr CallOrder::enter() {
  if (last_->alone()) append(false);
  return last_;
}

TurnPtr CallOrder::enter_alone() {
  append(true);
  return last_;
}

bool CallOrder::open() const noexcept {
  return last_->open() && (!last_->alone() || last_.use_count() == 1);
}

void CallOrder::append(bool alone) {
  auto next = std::make_shared<Turn>(alone, last_, false);
  last_->follow_with(next);
  last_ = std::move(next);  // which opens it where nobody has the turn before
}

}  // namespace torchpool
