// One awaited call, as asyncio sees it: a future, so that nothing needs a task to wait for it (which costs the loop
// more than all else), and a coroutine as well, for those who make a task of it nevertheless.
#pragma once

#include <memory>

#include "bindings/interpreter/gil.h"
#include "core/schedule/channel.h"
#include "predict/batch/call_request.h"

namespace torchpool {

// A Python object. Made, awaited, cancelled and settled on the thread of its loop, with the interpreter's lock; others
// only hold it.
struct AwaitedCall {
  PyObject head;
  enum class State : std::uint8_t { kPending, kSucceeded, kFailed, kCancelled };
  State state;
  bool blocking;      // the task's mark: yielded, and not yet looked at
  bool seen;          // somebody asked for its outcome
  PyObject* loop;     // where it was made
  PyObject* waiter;   // the first callback, mostly a task's wake-up; null while there is none
  PyObject* context;  // to call it in
  PyObject* more;     // further callbacks: a list of pairs with their contexts, or null
  PyObject* outcome;  // the result, or what the model raised
  PyObject* why;      // the message of its cancellation, or null
  // Until it is settled. It refers back to this by whom it notifies; see NotifyingRequest.
  std::shared_ptr<CallRequest> request;
  std::weak_ptr<Channel> channel;
};

// Pending, on the running loop. Throws where none runs.
py::object new_awaited_call();
inline AwaitedCall& awaited_call(PyObject* self) noexcept {
  return *reinterpret_cast<AwaitedCall*>(self);
}
inline AwaitedCall& awaited_call(const py::object& object) noexcept {
  return awaited_call(object.ptr());
}
// Done, for what was known before it was awaited.
py::object awaited_result(py::object result);
py::object awaited_failure(const py::object& error);

// Takes over the outcome of its request, which is done. One that was cancelled meanwhile stays so.
void settle(AwaitedCall& call);
// Runs its first callback, if it has any, as its loop would, and lets the loop run the others; false with an error set.
// Requires: it is done, and no task runs on this thread.
bool wake(AwaitedCall& call);

void register_awaited_call(py::module_& module);
// Tells loops that calls are done: one wake-up a loop, however many.
void register_wake_loops(py::module_& module);

}  // namespace torchpool
