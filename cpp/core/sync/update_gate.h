// Keeps runs of a model and changes of its weights apart.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "core/sync/clock.h"
#include "core/sync/event.h"
#include "core/sync/mutex.h"

namespace torchpool {

// Note [How updates and runs keep apart]
// Each run enters its predictor's gate: a batch or a call alone on a worker (GatePass), a call on its caller's thread,
// the learner's runs, those that a graph is compared with. An update closes the gates of all predictors that share
// something with the module, waits until all are empty at once, and opens them again. An open gate costs a run a
// compare-and-swap.
//  - A task that finds the gate closed waits for an event and gives its worker back: deadlines end its calls as ever,
//  and
//    other predictors' calls run. A thread sleeps.
//  - A run inside of one that the update waits for enters a closing gate: the outer one would never end.
//  - When an update has waited for some seconds, it opens the gates for a moment and then waits for twice as long: what
//    runs may itself wait for a call on another thread, or take very long.
//  - At its end graphs read the weights anew, whether or not the writing left a trace. A graph whose tensors were
//    replaced is retired: calls that have waited with it go on to the module.
//
// One a predictor.
//
//   open --take_all--> closing --the last run left--> held --open_all--> open
//
// While it is closing, only runs inside of a run that the update waits for enter: that one waits for them. Requires: an
// entry is left before the gate is destroyed. Guarantees: what an update wrote is visible to the runs that enter after
// it, what a run read was written before an update that waited for it.
class UpdateGate {
 public:
  using Gates = std::span<const std::shared_ptr<UpdateGate>>;

  // False while an update holds the gate, or waits for it and this thread is in no run that it waits for.
  bool try_enter() noexcept;
  // The same, waiting until `until`.
  bool enter(Clock& clock, TimePoint until) TP_EXCLUDES(mutex_);
  void leave() noexcept TP_EXCLUDES(mutex_);
  // From now on one run at a time enters, beside those inside of it: the model changes itself while it runs.
  void admit_one_at_a_time() noexcept { one_at_a_time_.store(true); }
  bool admits_one_at_a_time() const noexcept { return one_at_a_time_.load(std::memory_order_relaxed); }
  // Whether a run is inside that may have changed the model for itself.
  bool model_in_flux() const noexcept {
    return admits_one_at_a_time() && word_.load(std::memory_order_acquire) >= kRun;
  }
  // Whether an update holds it, or waits for it.
  bool closed() const noexcept { return (word_.load(std::memory_order_acquire) & (kHeld | kClosing)) != 0; }
  // Sets the event when try_enter() is worth another try.
  void tell_when_open(std::shared_ptr<Event> event) TP_EXCLUDES(mutex_);

  // Waits until nothing is in any of the gates, and holds all of them: at once, or none. False when `until` has come
  // first: they stay closing then. Waits, too, while another thread holds one of them. Requires: no other thread is
  // taking one of them, or the two may open each other's.
  static bool take_all(Gates gates, Clock& clock, TimePoint until);
  // Also of gates that are closing, or open.
  static void open_all(Gates gates) noexcept;
  // For the gate of a new predictor: as if take_all() had taken it, on this thread (`here`) or on another.
  void hold(bool here) noexcept;

  bool held_by_this_thread() const noexcept {
    return (word_.load(std::memory_order_acquire) & kHeld) != 0 && holder_.load() == std::this_thread::get_id();
  }
  // Whether this thread is in a run that entered the gate.
  bool entered_by_this_thread() const noexcept;

 private:
  friend class InGate;
  static constexpr std::uint64_t kHeld = 1;
  static constexpr std::uint64_t kClosing = 2;
  static constexpr std::uint64_t kRun = 4;  // one run inside

  bool try_hold() noexcept;
  bool full(std::uint64_t word) const noexcept;
  void change_state(std::uint64_t set, std::uint64_t clear) noexcept TP_EXCLUDES(mutex_);
  bool wait_empty(Clock& clock, TimePoint until) TP_EXCLUDES(mutex_);

  std::atomic<std::uint64_t> word_{0};  // kRun times the runs inside, and the state
  std::atomic<std::thread::id> holder_{};
  std::atomic<bool> one_at_a_time_{false};
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::shared_ptr<Event>> told_ TP_GUARDED_BY(mutex_);
};

// For the scope of a part of a run on this thread: the run has entered `gate`. Null: of a model without one.
class InGate {
 public:
  explicit InGate(const UpdateGate* gate) noexcept;
  ~InGate();
  InGate(const InGate&) = delete;
  InGate& operator=(const InGate&) = delete;

 private:
  friend class UpdateGate;
  static bool closing_around_this_thread() noexcept;
  const UpdateGate* const gate_;
  const InGate* const outer_;
};

// An entry, left by the destructor.
class GateEntry {
 public:
  GateEntry() = default;
  // `gate` was entered.
  explicit GateEntry(std::shared_ptr<UpdateGate> gate) noexcept : gate_(std::move(gate)) {}
  GateEntry(GateEntry&& other) noexcept = default;
  GateEntry& operator=(GateEntry&& other) noexcept {
    leave();
    gate_ = std::move(other.gate_);
    return *this;
  }
  ~GateEntry() { leave(); }
  explicit operator bool() const noexcept { return gate_ != nullptr; }
  void leave() noexcept {
    if (const auto gate = std::move(gate_)) gate->leave();
  }

 private:
  std::shared_ptr<UpdateGate> gate_;
};

// The way of a task of several steps through its predictor's gate. Null: of a model without one.
class GatePass {
 public:
  explicit GatePass(std::shared_ptr<UpdateGate> gate) noexcept : gate_(std::move(gate)) {}
  // Null once the task has entered; else what it is to wait for before it asks again.
  Event* enter();
  void leave() noexcept { entry_.leave(); }
  bool waited() const noexcept { return opened_ != nullptr; }
  const UpdateGate* gate() const noexcept { return gate_.get(); }

 private:
  const std::shared_ptr<UpdateGate> gate_;
  GateEntry entry_;
  std::shared_ptr<Event> opened_;
};

}  // namespace torchpool
