// Calls whose outcome a concurrent.futures.Future gives.
#include "bindings/futures/call_future.h"
#include "bindings/futures/future_methods.h"
#include "bindings/predictor/bound_predictor.h"

namespace torchpool {

py::object BoundPredictor::submit_future(const py::tuple& args, const py::object& kwargs, const CallOptions& options) {
  look_at_gradients();
  PreparedCall call;
  read_in_turn(args, kwargs, options, call);
  if (call.mismatch && settles_here(call, options)) return finished_future(settle(call, args, kwargs));
  if (must_run_inline() || call.ambient.must_run_here || settles_here(call, options)) {
    return future_of_inline(call, args, kwargs);
  }
  return start_new_future(call, args, kwargs, options, {}, Full::kByPolicy);
}

py::object BoundPredictor::line_up(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                                   const CallOwner& owner, bool here) {
  const bool runs_inline = here && must_run_inline();
  PreparedCall call;
  call.until = options.deadline.value_or(kNever);
  if (runs_inline) {
    reader_.read(args, kwargs, call);
    if (call.mismatch) return finished_future(settle(call, args, kwargs));
  } else if (!reader_.try_read(args, kwargs, call) || call.learns_alone || call.route == Route::kLearning ||
             settles_here(call, options)) {
    return py::none();
  }
  if (!runs_inline && CallTurns::apply_here()) {
    const bool waits = call.new_sizes || !turns_.open();
    if (waits && !call.ambient.must_run_here) return py::none();
    call.turn = turns_.take(call);
    turns_.wait(*call.turn, call.until);
  }
  if (runs_inline || call.ambient.must_run_here) return future_of_inline(call, args, kwargs);
  return start_new_future(call, args, kwargs, options, owner, Full::kLineUp);
}

py::list BoundPredictor::line_up_each(const py::list& calls, const CallOptions& options, const CallOwner& owner,
                                      bool here) {
  py::list futures;
  try {
    CallOwner each = owner;
    for (const py::handle args : calls) {
      if (!owner.instead.is_none()) each.args = py::reinterpret_borrow<py::object>(args);
      py::object future = line_up(py::reinterpret_borrow<py::tuple>(args), py::none(), options, each, here);
      if (future.is_none()) break;
      futures.append(std::move(future));
    }
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) {  // an interrupt: it ends the caller, which never learns of these futures
      for (std::size_t i = futures.size(); i > 0; --i) futures[i - 1].attr("cancel")();
      throw;
    }
  } catch (const std::exception&) {
    return futures;  // as an Exception, the error is raised again for whoever sends that call by itself
  }
  return futures;
}

void BoundPredictor::hand_over(const py::object& future, const py::tuple& args, const py::object& kwargs,
                               const CallOptions& options) {
  const auto end = [&future](const py::object& value) {
    end_future(future.ptr(), value.ptr(), false, CallBack::kLater);
    let_go(future.ptr());
  };
  PreparedCall call;
  read_in_turn(args, kwargs, options, call);
  const PendingCall* pending = fields_of(future.ptr())->call;
  if (pending == nullptr || pending->settling) return;  // cancelled or expired meanwhile
  if (settles_here(call, options)) return end(settle(call, args, kwargs));
  if (call.ambient.must_run_here) return end(inline_.run(call, args, kwargs));
  start_future(call, args, kwargs, options, future, Full::kLineUp);
}

py::object BoundPredictor::future_of_inline(PreparedCall& call, const py::tuple& args, const py::object& kwargs) {
  try {
    return finished_future(call.new_sizes ? settle(call, args, kwargs) : inline_.run(call, args, kwargs));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;  // an interrupt is the submitter's
    return finished_future(error.value(), true);
  }
}

py::object BoundPredictor::start_new_future(PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                                            const CallOptions& options, const CallOwner& owner, Full full) const {
  py::object future = new_call_future(owner);
  try {
    start_future(call, args, kwargs, options, future, full);
  } catch (...) {
    let_go(future.ptr());
    throw;
  }
  return future;
}

void BoundPredictor::start_future(PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                                  const CallOptions& options, const py::object& future, Full full) const {
  const std::shared_ptr<Channel> channel = channels_.of(call);
  const auto request = requests_.make(call, args, kwargs, options, {future}, Snapshot::kSmall, *channel);
  const PendingCall* pending = fields_of(future.ptr())->call;  // making the request may have run any code
  if (pending == nullptr || pending->settling) {               // cancelled or expired meanwhile
    request->try_withdraw();
    request->forget_notified();
    return;
  }
  attach(future.ptr(), request, channel);
  try {
    requests_.admit(call, request, channel, full);
  } catch (...) {
    if (request->try_withdraw()) {
      request->forget_notified();
      detach(future.ptr());
    }
    throw;
  }
}

}  // namespace torchpool
