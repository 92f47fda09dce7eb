#include "bindings/call/pending.h"

#include <algorithm>
#include <thread>

#include "bindings/executor/pool_worker.h"
#include "bindings/predictor/python_backend.h"
#include "core/sync/error.h"

namespace torchpool {

namespace {
constexpr Duration kLook = std::chrono::milliseconds(1);
}

bool cancel_in(const std::weak_ptr<Channel>& weak, CallRequest& request) noexcept {
  std::shared_ptr<Channel> channel = weak.lock();
  if (!channel) return false;
  const bool cancelled = channel->cancel(request);
  const GilRelease release;  // its other owner may have let go meanwhile: see Pending::channel_
  channel.reset();
  return cancelled;
}

Pending Pending::failed(py::object error) {
  Pending pending{py::none()};
  pending.error_ = std::move(error);
  return pending;
}

bool wait_for(CallRequest& request, const std::weak_ptr<Channel>& channel, TimePoint until) {
  if (request.done()) return true;
  const ParkedTask parked(request.useful_calls);
  const bool slices = handles_signals();
  for (;;) {
    const TimePoint slice = slices ? std::min(until, signal_slice()) : until;
    bool resolved = false;
    {
      const GilRelease release;
      resolved = request.wait_until(own_parker(), slice);
    }
    if (resolved) return true;
    if (slices && PyErr_CheckSignals() != 0) {
      const py::error_already_set raised;  // what is dropped with the request may run code of its own
      cancel_in(channel, request);
      throw raised;
    }
    if (Clock::steady().now() >= until) return request.done();
  }
}

py::object take_result(const CallRequest& request) {
  if (request.error()) raise_to_python(request.error());
  if (request.object) return borrow(request.object);
  return static_cast<const PyResultForm&>(*request.result_form).rebuild(request.outputs);
}

bool Pending::cancel() noexcept {
  if (!request_ || is_parents()) return false;
  return cancel_in(channel_, *request_) || request_->state() == RequestState::kCancelled;
}

bool Pending::wait(std::optional<double> timeout) {
  if (!request_) return true;
  if (is_parents()) throw Closed("submitted before the fork: the call belongs to the parent process");
  return wait_for(*request_, channel_, timeout ? after_seconds(*timeout) : kNever);
}

bool Pending::wait_left() {
  if (!request_) return !error_;
  const GilRelease release;
  // Somebody else waits for its completion, which takes one thread only.
  while (!request_->done() || request_->in_module.load()) std::this_thread::sleep_for(kLook);
  return request_->state() != RequestState::kFailed;
}

py::object Pending::get() {
  wait(std::nullopt);
  return result();
}

py::object Pending::result() {
  if (error_) {
    set_raised(error_.ptr());
    throw py::error_already_set();
  }
  if (!request_) return ready_;
  if (!request_->done()) throw Error("the request is not done; wait() for it first");
  return take_result(*request_);
}

void register_pending(py::module_& module) {
  py::class_<Pending>(module, "Pending", "A submitted call.")
      .def_property_readonly("ready", &Pending::ready)
      .def("done", &Pending::done)
      .def("running", &Pending::running)
      .def("cancelled", &Pending::cancelled)
      .def("cancel", &Pending::cancel)
      .def("wait", &Pending::wait, py::arg("timeout") = py::none())
      .def("wait_left", &Pending::wait_left)
      .def("get", &Pending::get)
      .def("result", &Pending::result);
}

}  // namespace torchpool
