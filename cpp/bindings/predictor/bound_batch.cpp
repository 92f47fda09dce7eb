// Batches that a map forms itself.
#include "bindings/predictor/bound_predictor.h"

#include "bindings/interpreter/errors.h"
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

std::vector<Pending> BoundPredictor::submit_batch(const py::list& calls, const CallOptions& options,
                                                  std::int64_t max_rows) {
  check_open();
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
    for (const RequestPtr& request : watched) watch(std::static_pointer_cast<CallRequest>(request));
  };
  for (const py::handle item : calls) {
    const auto pair = py::cast<py::tuple>(item);
    const py::tuple args = pair[0];
    const py::object kwargs = pair[1];
    try {
      Prepared call;
      prepare(args, kwargs, call);
      if (call.mismatch || call.route != Route::kMerge || must_run_inline() || call.ambient.must_run_here) {
        pending.push_back(submit(args, kwargs, options, py::none(), false, Full::kBlock));
        continue;
      }
      const std::shared_ptr<Channel> own = channel_of(call);
      auto request = make_request(call, args, kwargs, options, py::none(), false, true);
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

}  // namespace torchpool
