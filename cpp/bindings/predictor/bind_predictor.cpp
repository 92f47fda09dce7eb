#include <torch/csrc/jit/python/module_python.h>

#include "bindings/predictor/bound_predictor.h"
#include "predict/backends/script_backend.h"
#include "predict/graph/graph_backend.h"

namespace torchpool {

namespace {

py::dict histogram_to_python(const Histogram& histogram, double scale) {
  const Histogram::Snapshot snapshot = histogram.snapshot();
  py::dict result;
  result["count"] = snapshot.count;
  result["mean"] = snapshot.mean() * scale;
  result["p50"] = static_cast<double>(snapshot.quantile(0.5)) * scale;
  result["p99"] = static_cast<double>(snapshot.quantile(0.99)) * scale;
  result["max"] = static_cast<double>(snapshot.max) * scale;
  return result;
}

// A size class a dict: the most rows and the greatest length that it holds.
py::list cost_to_python(const CostModel& cost) {
  py::list classes;
  for (const CostModel::Point& point : cost.points()) {
    py::dict one;
    one["rows"] = point.rows;
    one["length"] = point.length;
    one["one_core"] = point.one_core;
    one["batches"] = point.samples;
    one["seconds_per_cell"] = point.ns_per_cell * 1e-9;
    one["seconds_per_item"] = point.ns_per_item == 0 ? py::object(py::none()) : py::cast(point.ns_per_item * 1e-9);
    classes.append(one);
  }
  return classes;
}

std::shared_ptr<BoundPredictor> make_predictor(std::shared_ptr<BoundRuntime> runtime, py::object target,
                                               py::object learner, const std::string& name, std::int64_t queue_rows,
                                               std::int64_t queue_bytes, bool reject, std::int64_t first_batch,
                                               std::int64_t max_batch, double max_delay, double weight,
                                               const py::list& modules, const py::object& script,
                                               const std::string& method, bool by_graph) {
  BoundPredictorOptions options;
  options.name = name;
  options.limits.rows = queue_rows;
  options.limits.bytes = queue_bytes;
  options.reject = reject;
  options.first_batch = first_batch;
  options.max_batch = max_batch;
  options.max_delay = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(max_delay));
  options.weight = weight;
  options.by_graph = by_graph;
  std::shared_ptr<Backend> backend;
  if (!script.is_none()) {
    const auto module = torch::jit::as_module(script);
    if (!module) throw py::type_error("backend 'torchscript' needs a torch.jit.ScriptModule");
    backend = std::make_shared<ScriptBackend>(*module, method);
  }
  return std::make_shared<BoundPredictor>(std::move(runtime), std::move(target), std::move(learner), modules,
                                          std::move(options), std::move(backend));
}

}  // namespace

py::dict BoundPredictor::stats() const {
  const auto count = [](const std::atomic<std::uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  py::dict result;
  result["accepted"] = count(stats_->accepted);
  result["resolved"] = stats_->resolved();
  result["succeeded"] = count(stats_->succeeded);
  result["failed"] = count(stats_->failed);
  result["cancelled"] = count(stats_->cancelled);
  result["expired"] = count(stats_->expired);
  result["rejected"] = count(stats_->rejected);
  result["inline"] = count(stats_->inlined);
  result["fell_back"] = count(stats_->fell_back);
  result["upkeep_failed"] = count(stats_->upkeep_failed);
  std::int64_t waiting_rows = 0;
  int running_batches = 0;
  for (const auto& channel : channels()) {
    waiting_rows += channel->waiting_rows();
    running_batches += channel->running();
  }
  result["waiting_rows"] = waiting_rows;
  result["running_batches"] = running_batches;
  result["max_batch"] = options_.max_batch;
  result["out_of_memory"] = count(stats_->out_of_memory);
  const auto cells = static_cast<double>(count(stats_->cells));
  result["padding"] = cells == 0 ? 0.0 : 1.0 - static_cast<double>(count(stats_->items)) / cells;
  const Channel& merging = graph_ ? *graph_ : *merge_;
  result["cost"] = cost_to_python(merging.cost());
  constexpr double kSeconds = 1e-9;
  result["queue_seconds"] = histogram_to_python(stats_->queue_ns, kSeconds);
  result["batch_seconds"] = histogram_to_python(stats_->batch_ns, kSeconds);
  result["run_seconds"] = histogram_to_python(stats_->run_ns, kSeconds);
  result["batch_rows"] = histogram_to_python(stats_->batch_rows, 1.0);
  return result;
}

void register_predictor(py::module_& module) {
  const auto options = [](int priority, std::optional<double> deadline) {
    CallOptions asked;
    asked.priority = priority;
    asked.deadline = deadline;
    return asked;
  };
  py::class_<BoundPredictor, std::shared_ptr<BoundPredictor>>(module, "Predictor", "Serves one model on a runtime.")
      .def(py::init(&make_predictor), py::arg("runtime"), py::arg("target"), py::arg("learner"), py::kw_only(),
           py::arg("name"), py::arg("queue_rows"), py::arg("queue_bytes"), py::arg("reject"), py::arg("first_batch"),
           py::arg("max_batch"), py::arg("max_delay"), py::arg("weight"), py::arg("modules"),
           py::arg("script") = py::none(), py::arg("method") = "forward", py::arg("by_graph") = false)
      .def(
          "call",
          [options](BoundPredictor& self, const py::tuple& args, const py::object& kwargs, int priority,
                    std::optional<double> deadline) { return self.call(args, kwargs, options(priority, deadline)); },
          py::arg("args"), py::arg("kwargs"), py::arg("priority") = 0, py::arg("deadline") = py::none())
      .def(
          "submit",
          [options](BoundPredictor& self, const py::tuple& args, const py::object& kwargs, const py::object& notified,
                    bool to_loop, bool block, bool reject, int priority, std::optional<double> deadline) {
            const Full full = block ? Full::kBlock : reject ? Full::kReject : Full::kByPolicy;
            return self.submit(args, kwargs, options(priority, deadline), notified, to_loop, full);
          },
          py::arg("args"), py::arg("kwargs"), py::arg("notified") = py::none(), py::arg("to_loop") = false,
          py::arg("block") = false, py::arg("reject") = false, py::arg("priority") = 0,
          py::arg("deadline") = py::none())
      .def(
          "start",
          [options](BoundPredictor& self, const py::tuple& args, const py::object& kwargs, int priority,
                    std::optional<double> deadline,
                    bool line_up) { return self.start(args, kwargs, options(priority, deadline), line_up); },
          py::arg("args"), py::arg("kwargs"), py::arg("priority") = 0, py::arg("deadline") = py::none(),
          py::arg("line_up") = false)
      .def(
          "feed",
          [options](BoundPredictor& self, const py::tuple& args, const py::object& kwargs, int priority,
                    std::optional<double> deadline, bool dynamic, std::int64_t chunk) {
            CallOptions asked = options(priority, deadline);
            asked.schedule = dynamic ? Schedule::kDynamic : Schedule::kGuided;
            asked.chunk = chunk;
            return self.submit(args, kwargs, asked, py::none(), false, Full::kBlock);
          },
          py::arg("args"), py::arg("kwargs"), py::arg("priority") = 0, py::arg("deadline") = py::none(),
          py::arg("dynamic") = false, py::arg("chunk") = 0)
      .def(
          "feed_batch",
          [options](BoundPredictor& self, const py::list& calls, int priority, std::optional<double> deadline,
                    std::int64_t max_rows) { return self.submit_batch(calls, options(priority, deadline), max_rows); },
          py::arg("calls"), py::arg("priority"), py::arg("deadline"), py::arg("max_rows"))
      .def("learn", &BoundPredictor::learn_from, py::arg("args"), py::arg("kwargs"))
      .def("is_known", &BoundPredictor::is_known, py::arg("args"), py::arg("kwargs"))
      .def("run_plain", &BoundPredictor::run_plain, py::arg("args"), py::arg("kwargs"))
      .def("set_batch", &BoundPredictor::set_batch, py::arg("first"), py::arg("most"))
      .def("set_fixed_batches", &BoundPredictor::set_fixed_batches, py::arg("rows_and_delay"))
      .def("serve_by_graph", &BoundPredictor::serve_by_graph, py::arg("variant"), py::arg("contract"), py::arg("graph"),
           py::arg("first_batch"), py::arg("max_batch"))
      .def("open_loop", &BoundPredictor::open_loop, py::arg("calls"), py::arg("arrivals"), py::kw_only(),
           py::arg("deadline") = py::none(), py::arg("priority") = 0, py::arg("block") = false)
      .def_property_readonly("volatile_attributes", &BoundPredictor::volatile_attributes)
      .def("close", &BoundPredictor::close, py::arg("fail_waiting"))
      .def("wait_drained", &BoundPredictor::wait_drained, py::arg("timeout") = py::none())
      .def("stats", &BoundPredictor::stats)
      .def("forget_learned", &BoundPredictor::forget_learned)
      .def_property_readonly("closed", &BoundPredictor::closed)
      .def_property_readonly("backend", &BoundPredictor::backend_name);
}

}  // namespace torchpool
