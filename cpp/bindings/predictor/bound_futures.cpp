// Calls whose outcome a concurrent.futures.Future gives.
#include "bindings/futures/call_future.h"
#include "bindings/predictor/bound_predictor.h"

namespace torchpool {

py::object BoundPredictor::submit_future(const py::tuple& args, const py::object& kwargs, const CallOptions& options) {
  PreparedCall call;
  reader_.read(args, kwargs, call);
  if (call.mismatch) return finished_future(learner_.settle_mismatch(call, args, kwargs));
  if (must_run_inline() || call.ambient.must_run_here) return future_of_inline(call, args, kwargs);
  py::object future = new_call_future();
  start_future(call, args, kwargs, options, future, Full::kByPolicy);
  return future;
}

py::object BoundPredictor::future_of_inline(const PreparedCall& call, const py::tuple& args,
                                            const py::object& kwargs) const {
  try {
    return finished_future(inline_.run(call, args, kwargs));
  } catch (py::error_already_set& error) {
    return finished_future(error.value(), true);
  }
}

void BoundPredictor::start_future(PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                                  const CallOptions& options, const py::object& future, Full full) const {
  const std::shared_ptr<Channel> channel = channels_.of(call);
  const auto request = requests_.make(call, args, kwargs, options, {future}, true);
  hand_over(future.ptr(), request, channel);
  try {
    requests_.admit(request, *channel, full);
  } catch (...) {
    if (request->try_withdraw()) {
      request->forget_notified();
      take_back(future.ptr());
    }
    throw;
  }
}

}  // namespace torchpool
