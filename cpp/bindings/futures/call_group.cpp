#include "bindings/futures/call_group.h"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "bindings/futures/call_future.h"
#include "bindings/futures/future_fork.h"
#include "bindings/futures/future_methods.h"
#include "bindings/futures/future_wait.h"
#include "bindings/interpreter/waiting.h"

namespace torchpool {

namespace {

// Never destroyed: groups may outlive everything else.
struct AllGroups {
  std::vector<CallGroup*> groups;
  std::int64_t pending = 0;
  Waiter* waiters = nullptr;
};

AllGroups& all() {
  static auto* groups = new AllGroups;
  return *groups;
}

bool wait_until_none(const std::int64_t& pending, Waiter*& waiters, TimePoint until) {
  const bool slices = handles_signals();
  while (pending > 0) {
    if (until != kNever && Clock::steady().now() >= until) return false;
    const bool woken = sleep_in(waiters, slices ? std::min(until, signal_slice()) : until, {});
    if (slices && !woken && PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
  return true;
}

// `first` is looked at once the list is made: the garbage collector may run then, and with it code that ends futures.
py::list futures_of(FutureFields* const& first) {
  py::list futures;
  for (FutureFields* each = first; each != nullptr; each = each->next) futures.append(py::handle(object_of(each)));
  return futures;
}

}  // namespace

void CallWindow::left() {
  --in_flight_;
  if (in_flight_ > low_ || on_low_.is_none()) return;
  try {
    const py::object on_low = on_low_;  // which may be forgotten meanwhile
    on_low();
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("torchpool: sending a map's next calls");
  }
}

CallGroup::CallGroup() {
  all().groups.push_back(this);
}

CallGroup::~CallGroup() {
  std::erase(all().groups, this);
  all().pending -= pending_;
}

void CallGroup::count(std::int64_t more) noexcept {
  pending_ += more;
  all().pending += more;
  if (pending_ == 0) wake(detach(waiters_));
  if (all().pending == 0) wake(detach(all().waiters));
}

void CallGroup::add(PyObject* future) noexcept {
  Py_INCREF(future);
  FutureFields& fields = *fields_of(future);
  fields.next = first_;
  if (first_ != nullptr) first_->previous = &fields;
  first_ = &fields;
  count(1);
}

void CallGroup::remove(PyObject* future) noexcept {
  FutureFields& fields = *fields_of(future);
  (fields.previous != nullptr ? fields.previous->next : first_) = fields.next;
  if (fields.next != nullptr) fields.next->previous = fields.previous;
  fields.next = fields.previous = nullptr;
  count(-1);
  Py_DECREF(future);
}

bool CallGroup::wait_none(TimePoint until) {
  const auto kept = shared_from_this();
  return wait_until_none(pending_, waiters_, until);
}

void CallGroup::cancel_waiting() {
  std::exception_ptr interrupt;  // the first error that is no Exception: a signal handler's, or a callback's
  // From the last on: a place that one gives back is not to go to another that is to be cancelled, too.
  for (const py::handle future : futures_of(first_)) {
    try {
      future.attr("cancel")();
    } catch (py::error_already_set& error) {
      if (interrupt == nullptr && !error.matches(PyExc_Exception)) {
        interrupt = std::current_exception();
      } else {
        error.discard_as_unraisable("torchpool: cancelling a call");
      }
    }
    let_go_of_ended(future.ptr());
  }
  if (interrupt != nullptr) std::rethrow_exception(interrupt);
}

AcceptedCalls::AcceptedCalls(std::shared_ptr<CallGroup> group, py::object waiting, py::object in_hand)
    : group_(std::move(group)), waiting_(std::move(waiting)), in_hand_(std::move(in_hand)) {}

void AcceptedCalls::count() noexcept {
  set(PyObject_Length(waiting_.ptr()) + PyObject_Length(in_hand_.ptr()));
}

void AcceptedCalls::set(std::int64_t calls) noexcept {
  const std::int64_t more = calls - std::exchange(counted_, calls);
  if (more != 0) group_->count(more);
}

void CallGroup::wait_all() {
  wait_until_none(all().pending, all().waiters, kNever);
}

void CallGroup::fail_after_fork(const py::object& make_exception) {
  py::list lost;
  all().waiters = nullptr;  // on stacks of threads that are gone
  for (CallGroup* group : all().groups) {
    for (FutureFields* each = group->first_; each != nullptr;) {
      FutureFields& fields = *each;
      each = fields.next;
      fields.next = fields.previous = nullptr;
      fields.call = nullptr;  // leaked: its request belongs to threads that are gone
      lost.append(py::reinterpret_steal<py::object>(object_of(&fields)));
    }
    group->first_ = nullptr;
    group->pending_ = 0;
    group->waiters_ = nullptr;
  }
  all().pending = 0;
  for (const py::handle future : lost) {
    FutureFields& fields = *fields_of(future.ptr());
    if (fields.ordinary || !is_done(fields)) torchpool::fail_after_fork(fields, make_exception);
  }
}

namespace {

// A future that has no request ends with this, or as somebody else has ended it, and is let go; false where it has
// one, or was let go before.
bool end_call(const py::object& future, const py::object& value, bool failed) {
  const PendingCall* call = fields_of(future.ptr())->call;
  if (call == nullptr || call->request || call->settling) return false;
  end_future(future.ptr(), value.ptr(), failed, CallBack::kLater);
  let_go(future.ptr());
  return true;
}

}  // namespace

void register_call_group(py::module_& module) {
  py::class_<CallWindow, std::shared_ptr<CallWindow>>(module, "CallWindow", "How many calls of a map are on their way.")
      .def(py::init<std::size_t>(), py::arg("low"))
      .def_property_readonly("in_flight", &CallWindow::in_flight)
      .def("set_on_low", &CallWindow::set_on_low, py::arg("on_low"));
  py::class_<CallGroup, std::shared_ptr<CallGroup>>(module, "CallGroup", "An executor's calls that are not resolved.")
      .def(py::init<>())
      .def(
          "future",
          [](std::shared_ptr<CallGroup> group, std::shared_ptr<CallWindow> window, py::object predictor,
             py::object instead, py::object args) {
            return new_call_future(
                {std::move(group), std::move(window), std::move(predictor), std::move(instead), std::move(args)});
          },
          py::arg("window"), py::arg("predictor"), py::arg("instead") = py::none(), py::arg("args") = py::none(),
          "The future of a call that its predictor does not have yet.")
      .def_property_readonly("pending", &CallGroup::pending)
      .def("wait_none", [](CallGroup& group) { return group.wait_none(kNever); })
      .def("cancel_waiting", &CallGroup::cancel_waiting);
  py::class_<AcceptedCalls>(module, "AcceptedCalls", "The calls of a map that have no future yet.")
      .def(py::init<std::shared_ptr<CallGroup>, py::object, py::object>(), py::arg("group"), py::arg("waiting"),
           py::arg("in_hand"))
      .def("count", &AcceptedCalls::count);
  module.def("wait_for_calls", &CallGroup::wait_all, "Waits for the calls of all groups.");
  module.def("fail_calls_after_fork", &CallGroup::fail_after_fork, py::arg("make_exception"));
  module.def(
      "answer_call", [](const py::object& future, const py::object& value) { return end_call(future, value, false); },
      py::arg("future"), py::arg("value"), "As fail_call(), with a result.");
  module.def(
      "fail_call", [](const py::object& future, const py::object& error) { return end_call(future, error, true); },
      py::arg("future"), py::arg("error"),
      "Ends a future that its predictor does not have yet, unless somebody else has; False where it has it.");
  module.def("failed_future", [](const py::object& error) { return finished_future(error, true); }, py::arg("error"));
}

}  // namespace torchpool
