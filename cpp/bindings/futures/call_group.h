// What an executor has sent to predictors and is to see through.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "bindings/futures/future_object.h"
#include "bindings/interpreter/gil.h"
#include "core/sync/clock.h"

namespace torchpool {

// How many calls of one map are on their way, and who is to send the next ones. Belongs to the interpreter's lock.
class CallWindow {
 public:
  // `low`: at so many or fewer on their way, `on_low` is called as each ends.
  explicit CallWindow(std::size_t low) : low_(low) {}
  std::size_t in_flight() const noexcept { return in_flight_; }
  // Holds it, and with it whatever feeds the map; None when nothing is left to send.
  void set_on_low(py::object on_low) { on_low_ = std::move(on_low); }

  void entered() noexcept { ++in_flight_; }
  void left();

 private:
  std::size_t low_;
  std::size_t in_flight_ = 0;
  py::object on_low_ = py::none();
};

// The futures of calls that are not resolved, and a count of calls that were accepted and have no future yet. Belongs
// to the interpreter's lock.
class CallGroup : public std::enable_shared_from_this<CallGroup> {
 public:
  CallGroup();
  ~CallGroup();
  CallGroup(const CallGroup&) = delete;
  CallGroup& operator=(const CallGroup&) = delete;

  // Keeps the future until let_go().
  void add(PyObject* future) noexcept;
  void remove(PyObject* future) noexcept;
  std::int64_t pending() const noexcept { return pending_; }
  // False when `until` came first. Releases the interpreter's lock; throws what a signal handler raises.
  bool wait_none(TimePoint until);
  // Cancels what has not started. Throws, after that, the first error on the way that is no Exception.
  void cancel_waiting();

  // Of all groups, also those whose executor is gone.
  static void wait_all();
  // In a forked child: whatever is pending fails, since nobody in this process would ever resolve it.
  static void fail_after_fork(const py::object& make_exception);

 private:
  friend class AcceptedCalls;
  void count(std::int64_t more) noexcept;

  FutureFields* first_ = nullptr;
  std::int64_t pending_ = 0;
  Waiter* waiters_ = nullptr;
};

// The calls of one map that were accepted and have no future yet, as a part of a group's count: as many as stand in two
// containers. Counted anew each time, and not by differences, so that an interrupted thread leaves no error behind.
class AcceptedCalls {
 public:
  AcceptedCalls(std::shared_ptr<CallGroup> group, py::object waiting, py::object in_hand);
  ~AcceptedCalls() { set(0); }
  AcceptedCalls(const AcceptedCalls&) = delete;
  AcceptedCalls& operator=(const AcceptedCalls&) = delete;

  // After a container has changed. The two are a deque and a list, whose lengths run no Python code.
  void count() noexcept;

 private:
  void set(std::int64_t calls) noexcept;

  std::shared_ptr<CallGroup> group_;
  py::object waiting_;
  py::object in_hand_;
  std::int64_t counted_ = 0;
};

void register_call_group(py::module_& module);

}  // namespace torchpool
