// Keeps the calls that may change a model apart from all others: earlier ones come first, later ones after.
#pragma once

#include <atomic>
#include <memory>

#include "core/sync/clock.h"
#include "core/sync/mutex.h"

namespace torchpool {

// Note [The order of calls]
// Calls run side by side until one comes that may change the model. It waits for exactly those that came before it,
// and those that come after wait for it. So calls share turns: a turn opens when the one before is over, and is over
// when it is open and every call that had it has let go of it, which is when the last handle to it goes. A call that
// comes while the last turn is open, as nearly always, pays for one copy of a shared_ptr.
class Turn {
 public:
  Turn(bool alone, std::weak_ptr<Turn> before, bool open) noexcept
      : alone_(alone), before_(std::move(before)), open_(open) {}
  ~Turn();
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  // Of one call, which may change the model.
  bool alone() const noexcept { return alone_; }
  // Whether its calls may run. What calls of earlier turns wrote is visible to who has seen it open.
  bool open() const noexcept { return open_.load(std::memory_order_acquire); }
  // The same, waiting until `until`.
  bool wait_open(Clock& clock, TimePoint until) TP_EXCLUDES(mutex_);
  // Opens it whatever still runs of earlier turns: one of these may itself wait for a call that waits for this turn.
  void overtake() noexcept TP_EXCLUDES(mutex_);

 private:
  friend class CallOrder;
  void follow_with(std::shared_ptr<Turn> next) noexcept TP_EXCLUDES(mutex_);
  std::shared_ptr<Turn> take_next() noexcept TP_EXCLUDES(mutex_);
  void set_open() noexcept TP_EXCLUDES(mutex_);

  const bool alone_;
  const std::weak_ptr<Turn> before_;
  std::atomic<bool> open_;
  Mutex mutex_;
  CondVar opened_;
  std::shared_ptr<Turn> next_ TP_GUARDED_BY(mutex_);  // which cannot be over before this one is
};

using TurnPtr = std::shared_ptr<Turn>;

// Requires: one thread at a time is in any of its methods. Turns may be dropped by any thread, whenever.
class CallOrder {
 public:
  // The turn of a call that comes now: shared with others, or of its own. The caller waits until it is open.
  TurnPtr enter();
  TurnPtr enter_alone();
  // Whether enter() would give a turn that is open. May say no while the last call of the turn before lets go of it.
  bool open() const noexcept;

 private:
  void append(bool alone);
  TurnPtr last_ = std::make_shared<Turn>(false, std::weak_ptr<Turn>(), true);
};

}  // namespace torchpool
