// The future of a predictor's call: what it has that a task's has not, and how it ends.
#pragma once

#include <memory>

#include "bindings/futures/call_group.h"
#include "bindings/futures/future_object.h"
#include "bindings/interpreter/gil.h"
#include "core/schedule/channel.h"
#include "predict/batch/call_request.h"

namespace torchpool {

// Whose call it is, beside its caller's: an executor's, perhaps of one of its maps. All null for none.
struct CallOwner {
  std::shared_ptr<CallGroup> group;
  std::shared_ptr<CallWindow> window;
  py::object predictor;  // a predictor that nobody holds fails what it has: it is held until the call is done
  py::object instead;    // (future, args, error): answers a call that failed with that Exception, in place of it
  py::object args;       // of a call with `instead`
};

struct PendingCall {
  PendingCall(PyObject* future_of_it, CallOwner whose) noexcept;
  ~PendingCall();
  PendingCall(const PendingCall&) = delete;
  PendingCall& operator=(const PendingCall&) = delete;

  // Null until the predictor has the call, and again once its outcome is taken over. It refers back to the future by
  // whom it notifies; see NotifyingRequest.
  std::shared_ptr<CallRequest> request;
  std::weak_ptr<Channel> channel;
  CallOwner owner;
  bool settling = false;  // a thread has taken the outcome, and gives it to the future and lets go
  // All of the process, in no order, so that a forked child can end them.
  PyObject* const future;
  PendingCall* next = nullptr;
  PendingCall* previous = nullptr;
};

// Pending; its request comes by attach().
py::object new_call_future(CallOwner owner = {});
// Done, for what is known when it is made.
py::object finished_future(const py::object& value, bool failed = false);
// From now on the future waits for this request. Before the request is admitted: it may be done before that returns.
void attach(PyObject* future, std::shared_ptr<CallRequest> request, const std::shared_ptr<Channel>& channel);
// The request was refused a place: the future waits for none again.
void detach(PyObject* future) noexcept;
// Nothing will come any more: what the future held beside its outcome is dropped, and its owner told. Any code may run.
void let_go(PyObject* future) noexcept;

// Takes over the outcome of a request that is done, if no other thread does, and lets go; nothing for one that waits.
void settle_call(PyObject* future);
// The same for a thread that is about to wait for it. Nothing on the thread that handles signals: an interrupt would
// become the call's outcome there, so that thread waits for the resolver.
void settle_call_here(PyObject* future);
// Lets go of a future without a request that somebody else has ended, as by set_result().
void let_go_of_ended(PyObject* future);
// How many such calls in flight fill the batches that pay; 0 where that is not known.
std::int64_t useful_calls(PyObject* future) noexcept;
// True while the call's batch runs.
bool call_runs(PyObject* future) noexcept;
// cancel() of a pending future that has a call.
PyObject* cancel_call(PyObject* future);

// In a forked child: futures of calls that have no group fail with make_exception(), since the threads that were to
// resolve them are gone. For those of groups: CallGroup::fail_after_fork.
void fail_lone_calls_after_fork(const py::object& make_exception);

// Hands them to the thread of callbacks.
void call_back_later(PyObject* future, PyObject* callbacks) noexcept;

void register_call_future(py::module_& module);

}  // namespace torchpool
