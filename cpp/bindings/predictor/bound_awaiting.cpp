// Calls that an event loop awaits.
#include "bindings/awaited/awaited_call.h"
#include "bindings/predictor/bound_predictor.h"

namespace torchpool {

py::object BoundPredictor::start(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                                 bool line_up) {
  Prepared call;
  if (!take_apart(args, kwargs, call) || call.mismatch || call.route == Route::kLearning) return py::none();
  if (must_run_inline() || call.ambient.must_run_here) return awaited_result(run_here(call, args, kwargs));
  const std::shared_ptr<Channel>& channel = channel_of(call);
  py::object awaited = new_awaited_call();
  AwaitedCall& pending = awaited_call(awaited);
  pending.request = make_request(call, args, kwargs, options, awaited, true, true);
  pending.channel = channel;
  try {
    admit(pending.request, *channel, !line_up && options_.reject ? Full::kReject : Full::kLineUp);
  } catch (...) {
    if (pending.request->try_withdraw()) pending.request->forget_notified();
    throw;
  }
  return awaited;
}

}  // namespace torchpool
