// One awaited call, as an asyncio task sees it: of a future it has what tasks use, and no more.
#pragma once

#include <memory>

#include "bindings/gil.h"
#include "core/channel.h"
#include "predict/call_request.h"

namespace torchpool {

// A Python object. Made, awaited, cancelled and settled on the thread of its loop, with the interpreter's lock; others
// only hold it. One task awaits it, once.
struct AwaitedCall {
  PyObject head;
  enum class State : std::uint8_t { kPending, kSucceeded, kFailed, kCancelled, kTaken };
  State state;
  bool blocking;      // the task's mark: yielded, and not yet looked at
  PyObject* loop;     // where it was made
  PyObject* waiter;   // the task's wake-up; null until a task waits
  PyObject* context;  // to call it in
  PyObject* outcome;  // the result, or what the model raised; whoever takes an exception takes it away, since its
                      // traceback will hold the frame that awaits this
  PyObject* why;      // the message of its cancellation, or null
  // Until it is settled. It refers back to this by whom it notifies; see NotifyingRequest.
  std::shared_ptr<CallRequest> request;
  std::weak_ptr<Channel> channel;
};

// Pending, on the running loop. Throws where none runs.
py::object new_awaited_call();
inline AwaitedCall& awaited_call(const py::object& object) noexcept {
  return *reinterpret_cast<AwaitedCall*>(object.ptr());
}
// Done, for what was known before it was awaited.
py::object awaited_result(py::object result);

// Takes over the outcome of its request, which is done. One that was cancelled meanwhile stays so.
void settle(AwaitedCall& call);
// Runs the task that waits, if any does, as its loop would; false with an error set. Requires: it is done, and no task
// runs on this thread.
bool wake(AwaitedCall& call);

void register_awaited_call(py::module_& module);
// Tells loops that calls are done: one wake-up a loop, however many.
void register_wake_loops(py::module_& module);

}  // namespace torchpool
