#include "bindings/predictor/bound_predictor.h"

#include <algorithm>

#include "bindings/awaited/awaited_call.h"
#include "bindings/interpreter/errors.h"
#include "bindings/predictor/predictor_stats.h"
#include "core/sync/error.h"

namespace torchpool {

namespace {

// The exception that is being handled, as Python's.
py::object caught_exception() {
  try {
    throw;
  } catch (py::error_already_set& error) {
    return error.value();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const Error& error) {
    set_python_error(error);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return py::error_already_set().value();
}

}  // namespace

BoundPredictor::BoundPredictor(std::shared_ptr<BoundRuntime> runtime, const py::object& target,
                               const py::object& learner, const py::list& modules, const BoundPredictorOptions& options,
                               std::shared_ptr<Backend> backend)
    : runtime_(std::move(runtime)),
      stats_(std::make_shared<ChannelStats>()),
      learner_(learner, options.by_graph, stats_),
      channels_(runtime_, options, backend ? std::move(backend) : std::make_shared<PythonBackend>(target),
                std::make_shared<AloneHandler>(target, learner, stats_, runtime_->core().clock()), stats_),
      reader_(modules, options.by_graph, learner_, channels_),
      inline_(runtime_, target, learner_, stats_),
      requests_(runtime_, learner_, channels_.unnotified(), options.reject) {}

py::object BoundPredictor::call(const py::tuple& args, const py::object& kwargs, const CallOptions& options) {
  PreparedCall call;
  reader_.read(args, kwargs, call);
  if (call.mismatch) return learner_.settle_mismatch(call, args, kwargs);
  // Nested: a worker that waited for another call could wait for itself. Torch modes and functorch cannot move.
  if (must_run_inline() || call.ambient.must_run_here) return inline_.run(call, args, kwargs);
  if (options.deadline) return run_queued(call, args, kwargs, options);
  const bool any_thread =
      !call.variant || call.route == Route::kLearning || call.route == Route::kDirect || call.route == Route::kParallel;
  if (any_thread) return inline_.run(call, args, kwargs);
  if (py::object result = inline_.run_if_idle(call, *channels_.of(call), args, kwargs)) return result;
  return run_queued(call, args, kwargs, options);
}

py::object BoundPredictor::run_queued(PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                                      const CallOptions& options) {
  const std::shared_ptr<Channel> channel = channels_.of(call);
  const auto request = requests_.make(call, args, kwargs, options, {}, false);
  requests_.admit(request, *channel, Full::kByPolicy);
  wait_for(*request, channel, kNever);  // a deadline resolves the request itself
  return take_result(*request);
}

Pending BoundPredictor::submit(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                               const Notify& notify, Full full) {
  PreparedCall call;
  reader_.read(args, kwargs, call);
  if (call.mismatch) return Pending(learner_.settle_mismatch(call, args, kwargs));
  if (must_run_inline() || call.ambient.must_run_here) {
    try {
      return Pending(inline_.run(call, args, kwargs));
    } catch (py::error_already_set& error) {
      return Pending::failed(error.value());
    }
  }
  const std::shared_ptr<Channel> channel = channels_.of(call);
  auto request = requests_.make(call, args, kwargs, options, notify, true);
  Pending pending(request, channel);
  // Before it is admitted: it may be done, and its object looked at, before this call returns.
  if (!notify.object.is_none()) notify.object.attr("_pending") = py::cast(pending);
  try {
    requests_.admit(request, *channel, full);
  } catch (...) {
    if (request->try_withdraw()) request->forget_notified();
    throw;
  }
  return pending;
}

py::object BoundPredictor::start(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                                 bool line_up) {
  PreparedCall call;
  if (!reader_.try_read(args, kwargs, call) || call.mismatch || call.route == Route::kLearning) return py::none();
  if (must_run_inline() || call.ambient.must_run_here) return awaited_result(inline_.run(call, args, kwargs));
  const std::shared_ptr<Channel>& channel = channels_.of(call);
  py::object awaited = new_awaited_call();
  AwaitedCall& pending = awaited_call(awaited);
  pending.request = requests_.make(call, args, kwargs, options, {awaited, true}, true);
  pending.channel = channel;
  try {
    requests_.admit(pending.request, *channel,
                    !line_up && requests_.rejects_when_full() ? Full::kReject : Full::kLineUp);
  } catch (...) {
    if (pending.request->try_withdraw()) pending.request->forget_notified();
    throw;
  }
  return awaited;
}

std::vector<Pending> BoundPredictor::submit_batch(const py::list& calls, const CallOptions& options,
                                                  std::int64_t max_rows) {
  channels_.check_open();
  std::vector<Pending> pending;
  pending.reserve(calls.size());
  std::vector<RequestPtr> together;
  std::shared_ptr<Channel> channel;
  std::int64_t rows = 0;  // of those together
  const auto run = [&] {
    if (together.empty()) return;
    rows = 0;
    const std::vector<RequestPtr> watched = together;
    try {
      channel->submit_batch(std::exchange(together, {}));
    } catch (const Closed&) {
      return;  // which each of them has failed with
    }
    for (const RequestPtr& request : watched) requests_.watch_deadline(std::static_pointer_cast<CallRequest>(request));
  };
  for (const py::handle item : calls) {
    const auto pair = py::cast<py::tuple>(item);
    const py::tuple args = pair[0];
    const py::object kwargs = pair[1];
    try {
      PreparedCall call;
      reader_.read(args, kwargs, call);
      if (call.mismatch || call.route != Route::kMerge || must_run_inline() || call.ambient.must_run_here) {
        pending.push_back(submit(args, kwargs, options, {}, Full::kBlock));
        continue;
      }
      const std::shared_ptr<Channel> own = channels_.of(call);
      auto request = requests_.make(call, args, kwargs, options, {}, true);
      const std::int64_t most = std::min(max_rows, own->shared_cost()->rows_in_memory(request->info.extent));
      const bool apart = channel != own || (!together.empty() && together.front()->info.key != request->info.key);
      if (apart || rows + request->info.rows > most) run();
      rows += request->info.rows;
      channel = own;
      pending.emplace_back(request, own);
      together.push_back(std::move(request));
    } catch (const std::exception&) {
      pending.push_back(Pending::failed(caught_exception()));
    }
  }
  run();
  return pending;
}

void BoundPredictor::learn_from(const py::tuple& args, const py::object& kwargs) {
  PreparedCall call;
  reader_.read(args, kwargs, call);
}

bool BoundPredictor::is_known(const py::tuple& args, const py::object& kwargs) {
  PreparedCall call;
  return reader_.try_read(args, kwargs, call) && !call.mismatch && call.route != Route::kLearning;
}

py::object BoundPredictor::run_plain(const py::tuple& args, const py::object& kwargs) {
  return inline_.run_watched(reader_.watch(), args, kwargs);
}

bool BoundPredictor::serve_by_graph(std::int64_t variant, const py::object& contract,
                                    std::shared_ptr<graph::GraphBackend> graph, std::int64_t first_batch,
                                    std::int64_t max_batch) {
  if (!channels_.open_graph()) return false;
  const std::shared_ptr<Variant> served = learner_.variants().find(variant);
  if (!served || served->route != Route::kMerge || !served->learned.is(contract)) return false;
  channels_.set_graph_rows(first_batch, max_batch);
  served->graph = std::move(graph);
  return true;
}

py::dict BoundPredictor::stats() const {
  return stats_to_python(*stats_, channels_);
}

}  // namespace torchpool
