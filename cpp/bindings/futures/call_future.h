// The future of a predictor's call: what it has that a task's has not, and how it ends.
#pragma once

#include <memory>

#include "bindings/futures/future_object.h"
#include "bindings/interpreter/gil.h"
#include "core/schedule/channel.h"
#include "predict/batch/call_request.h"

namespace torchpool {

struct PendingCall {
  // Null until the predictor has the call, and again once its outcome is taken over. It refers back to the future by
  // whom it notifies; see NotifyingRequest.
  std::shared_ptr<CallRequest> request;
  std::weak_ptr<Channel> channel;
};

// Pending; its request comes by hand_over().
py::object new_call_future();
// Done, for what is known when it is made.
py::object finished_future(const py::object& value, bool failed = false);
// From now on the future waits for this request. Before the request is admitted: it may be done before that returns.
void hand_over(PyObject* future, std::shared_ptr<CallRequest> request, const std::shared_ptr<Channel>& channel);
// The request was refused a place, and the future is nobody's.
void take_back(PyObject* future) noexcept;

// Takes over the outcome of a request that is done, if no other thread has; nothing for a future that waits.
void take_outcome(PyObject* future);
// The same for a thread that is about to wait for it; false with an error set: a signal handler's.
bool take_outcome_here(PyObject* future);
// True while the call's batch runs.
bool call_runs(PyObject* future) noexcept;
// cancel() of a pending future that has a call.
PyObject* cancel_call(PyObject* future);

// Hands them to the thread of callbacks.
void call_back_later(PyObject* future, PyObject* callbacks) noexcept;

void register_call_future(py::module_& module);

}  // namespace torchpool
