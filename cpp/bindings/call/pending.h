// A submitted call, as Python holds it.
#pragma once

#include <memory>
#include <optional>

#include "bindings/interpreter/around_fork.h"
#include "bindings/interpreter/gil.h"
#include "bindings/interpreter/waiting.h"
#include "core/schedule/runtime.h"
#include "predict/batch/call_request.h"

namespace torchpool {

class Pending {
 public:
  Pending(std::shared_ptr<CallRequest> request, const std::shared_ptr<Channel>& channel)
      : request_(std::move(request)), channel_(channel), forks_(forks()) {}
  explicit Pending(py::object result) : ready_(std::move(result)) {}

  static Pending failed(py::object error);

  // Its outcome was known when it was made; nobody is notified of it.
  bool ready() const noexcept { return !request_; }
  bool done() const noexcept { return !request_ || request_->done(); }
  bool running() const noexcept { return request_ && request_->state() == RequestState::kRunning; }
  bool cancelled() const noexcept { return request_ && request_->state() == RequestState::kCancelled; }
  // True when this call or an earlier one kept it from starting.
  bool cancel() noexcept;
  // Waits with the interpreter's lock released; false when `timeout` seconds passed first. On the main thread signals
  // are handled meanwhile: a KeyboardInterrupt cancels the request and is raised.
  bool wait(std::optional<double> timeout);
  // Waits until it is done, and no worker runs it any more: one that has expired may still be run. False when the model
  // refused it.
  bool wait_left();
  // result(), once it is done.
  py::object get();
  // The model's own output, or what it raised. Requires done().
  py::object result();

 private:
  // Submitted by the process that this one was forked from, whose threads will not resolve it here.
  bool is_parents() const noexcept { return request_ && !request_->done() && forks_ != forks(); }

  std::shared_ptr<CallRequest> request_;
  // Not an owner: a channel waits at its end for what runs, which may need the interpreter's lock that is held here.
  // Once it is gone everything is resolved.
  std::weak_ptr<Channel> channel_;
  int forks_ = 0;  // when it was submitted
  py::object ready_;
  py::object error_;
};

// Cancels a request where it has not started; true when this call did. Lets go of the interpreter's lock for a moment.
bool cancel_in(const std::weak_ptr<Channel>& channel, CallRequest& request) noexcept;
// Waits for a request that the calling thread owns; as Pending::wait. `until` is on the runtime's clock.
bool wait_for(CallRequest& request, const std::weak_ptr<Channel>& channel, TimePoint until);
// The result of a request that is done, as the model's own output; raises what it failed with.
py::object take_result(const CallRequest& request);
void register_pending(py::module_& module);

}  // namespace torchpool
