#include "bindings/futures/call_future.h"

#include <utility>
#include <vector>

#include "bindings/call/pending.h"
#include "bindings/futures/future_fork.h"
#include "bindings/futures/future_lock.h"
#include "bindings/futures/future_methods.h"
#include "bindings/futures/future_standard.h"
#include "bindings/futures/future_wait.h"
#include "bindings/interpreter/import_from.h"
#include "bindings/interpreter/waiting.h"

namespace torchpool {

namespace {

constexpr std::size_t kBreath = 128;  // futures that are settled before other threads may run

PendingCall* first_call = nullptr;  // of all; under the interpreter's lock

struct CallOutcome {
  py::object value;
  bool failed = false;
};

CallOutcome outcome_of(const CallRequest& request) {
  try {
    return {take_result(request)};
  } catch (py::error_already_set& error) {
    return {error.value(), true};
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return {py::error_already_set().value(), true};
  }
}

// Ends a future whose call was cancelled. An ordinary one may be cancelled by another thread meanwhile.
bool settle_cancelled(PyObject* future) {
  const FutureFields& fields = *fields_of(future);
  if (!wait_unlocked(future)) return false;
  if (!fields.ordinary && is_done(fields)) return true;
  return cancel_unqueued(future);
}

// Whether somebody else answers a call that failed: its future is one without a request again.
bool is_answered_instead(PyObject* future, const py::object& error) {
  PendingCall& call = *fields_of(future)->call;
  const py::object instead = std::exchange(call.owner.instead, {});
  const py::object args = std::exchange(call.owner.args, {});
  if (!instead || instead.is_none() || PyErr_GivenExceptionMatches(error.ptr(), PyExc_Exception) == 0) return false;
  call.settling = false;
  try {
    instead(py::handle(future), args, error);
    return true;
  } catch (py::error_already_set& raised) {
    raised.discard_as_unraisable("torchpool: answering a call that failed");
  }
  PendingCall* left = fields_of(future)->call;
  if (left == nullptr || left->request || left->settling) return true;
  left->settling = true;
  return false;
}

void settle_one(const py::handle& item) {
  if (!is_future(item.ptr())) {
    item.attr("_settle")();
    return;
  }
  settle_call(item.ptr());
}

// The handler of a runtime's futures: what is done since the last time, on the resolver's thread.
void settle_futures(const py::list& done) {
  std::size_t settled = 0;
  for (const py::handle item : done) {
    try {
      settle_one(item);
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("torchpool: settling a future");
    }
    if (++settled % kBreath != 0) continue;
    const auto breath = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(standard.breathe));
    if (!breath) PyErr_WriteUnraisable(standard.breathe);
  }
}

}  // namespace

PendingCall::PendingCall(PyObject* future_of_it, CallOwner whose) noexcept
    : owner(std::move(whose)), future(future_of_it), next(first_call) {
  if (next != nullptr) next->previous = this;
  first_call = this;
}

PendingCall::~PendingCall() {
  (previous != nullptr ? previous->next : first_call) = next;
  if (next != nullptr) next->previous = previous;
}

py::object new_call_future(CallOwner owner) {
  auto future = py::reinterpret_steal<py::object>(new_future(future_type));
  if (!future) throw py::error_already_set();
  auto* call = new PendingCall(future.ptr(), std::move(owner));
  fields_of(future.ptr())->call = call;
  if (call->owner.window) call->owner.window->entered();
  if (call->owner.group) call->owner.group->add(future.ptr());
  return future;
}

py::object finished_future(const py::object& value, bool failed) {
  auto future = py::reinterpret_steal<py::object>(new_future(future_type));
  if (!future) throw py::error_already_set();
  FutureFields& fields = *fields_of(future.ptr());
  fields.state = FutureState::kFinished;
  fields.failed = failed;
  fields.value = Py_NewRef(value.ptr());
  track_if_needed(future.ptr());
  return future;
}

void attach(PyObject* future, std::shared_ptr<CallRequest> request, const std::shared_ptr<Channel>& channel) {
  PendingCall& call = *fields_of(future)->call;
  call.request = std::move(request);
  call.channel = channel;
}

void detach(PyObject* future) noexcept {
  if (PendingCall* call = fields_of(future)->call) call->request.reset();
}

void let_go(PyObject* future) noexcept {
  const std::unique_ptr<PendingCall> call(std::exchange(fields_of(future)->call, nullptr));
  if (call == nullptr || call->owner.group == nullptr) return;
  const auto kept = py::reinterpret_borrow<py::object>(future);
  call->owner.group->remove(future);
  if (call->owner.window) call->owner.window->left();
}

// Note: torch lets go of the interpreter's lock where it drops a tensor that Python has seen, an input here. So the
// request goes last, when whoever looks sees all of it done.
void settle_call(PyObject* future) {
  PendingCall* call = fields_of(future)->call;
  if (call == nullptr || !call->request || !call->request->done()) return;
  const std::shared_ptr<CallRequest> request = std::move(call->request);
  call->settling = true;
  if (request->state() == RequestState::kCancelled) {
    if (!settle_cancelled(future)) log_error("worker_failed", future);
  } else {
    const CallOutcome outcome = outcome_of(*request);
    if (outcome.failed && is_answered_instead(future, outcome.value)) return;
    end_future(future, outcome.value.ptr(), outcome.failed, CallBack::kLater);
  }
  let_go(future);
}

void settle_call_here(PyObject* future) {
  if (fields_of(future)->call == nullptr || handles_signals()) return;
  const auto kept = py::reinterpret_borrow<py::object>(future);
  settle_call(future);
}

void let_go_of_ended(PyObject* future) {
  const PendingCall* call = fields_of(future)->call;
  if (call != nullptr && !call->request && !call->settling && has_ended(future)) let_go(future);
}

std::int64_t useful_calls(PyObject* future) noexcept {
  const PendingCall* call = fields_of(future)->call;
  return call == nullptr || !call->request ? 0 : call->request->useful_calls;
}

bool call_runs(PyObject* future) noexcept {
  const PendingCall* call = fields_of(future)->call;
  return call != nullptr && call->request && call->request->state() == RequestState::kRunning;
}

PyObject* cancel_call(PyObject* future) {
  if (fields_of(future)->call->settling) Py_RETURN_FALSE;
  const std::shared_ptr<CallRequest> request = fields_of(future)->call->request;
  if (request) {
    const std::weak_ptr<Channel> channel = fields_of(future)->call->channel;
    if (!cancel_in(channel, *request) && request->state() != RequestState::kCancelled) Py_RETURN_FALSE;
    PendingCall* call = fields_of(future)->call;                      // the lock was let go of meanwhile
    if (call == nullptr || call->request != request) Py_RETURN_TRUE;  // another thread settles it
    call->request.reset();
  }
  fields_of(future)->call->settling = true;
  if (settle_cancelled(future)) {
    let_go(future);
    Py_RETURN_TRUE;
  }
  const auto raised = py::reinterpret_steal<py::object>(take_raised());
  if (has_ended(future)) {  // a callback raised it
    let_go(future);
  } else if (PendingCall* call = fields_of(future)->call) {  // interrupted before; the resolver may have come by
    call->request = request;
    call->settling = false;
    settle_call(future);
  }
  set_raised(raised.ptr());
  return nullptr;
}

void fail_lone_calls_after_fork(const py::object& make_exception) {
  std::vector<py::object> lost;
  for (const PendingCall* call = first_call; call != nullptr; call = call->next) {
    if (call->owner.group == nullptr) lost.push_back(py::reinterpret_borrow<py::object>(call->future));
  }
  for (const py::object& future : lost) {
    FutureFields& fields = *fields_of(future.ptr());
    fields.call = nullptr;  // leaked: its request belongs to threads that are gone
    if (fields.ordinary || !is_done(fields)) fail_after_fork(fields, make_exception);
  }
}

void call_back_later(PyObject* future, PyObject* callbacks) noexcept {
  static PyObject* later = nullptr;
  try {
    if (later == nullptr) later = import_from("torchpool.call.futures", "call_back_later");
    const auto done =
        py::reinterpret_steal<py::object>(PyObject_CallFunctionObjArgs(later, future, callbacks, nullptr));
    if (!done) throw py::error_already_set();
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("torchpool: handing callbacks to their thread");
  }
}

void register_call_future(py::module_& module) {
  module.def("fail_lone_calls_after_fork", &fail_lone_calls_after_fork, py::arg("make_exception"));
  module.def("settle_futures", &settle_futures, py::arg("done"),
             "Settles what is done: futures of calls, and others by their _settle().");
}

}  // namespace torchpool
