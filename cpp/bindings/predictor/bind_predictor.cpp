#include <torch/csrc/jit/python/module_python.h>

#include "bindings/predictor/bound_predictor.h"
#include "predict/backends/script_backend.h"
#include "predict/graph/graph_backend.h"

namespace torchpool {

namespace {

std::shared_ptr<BoundPredictor> make_predictor(std::shared_ptr<BoundRuntime> runtime, const py::object& target,
                                               const py::object& learner, const std::string& name,
                                               std::int64_t queue_rows, std::int64_t queue_bytes, bool reject,
                                               std::int64_t first_batch, std::int64_t max_batch, double max_delay,
                                               double weight, const py::list& modules, const py::object& script,
                                               const std::string& method, bool by_graph, double verify,
                                               bool invariant) {
  BoundPredictorOptions options;
  options.name = name;
  options.limits.rows = queue_rows;
  options.limits.bytes = queue_bytes;
  options.reject = reject;
  options.first_batch = first_batch;
  options.max_batch = max_batch;
  options.max_delay = from_seconds(max_delay);
  options.weight = weight;
  options.by_graph = by_graph;
  options.verify = verify;
  options.invariant = invariant;
  std::shared_ptr<Backend> backend;
  if (!script.is_none()) {
    const auto module = torch::jit::as_module(script);
    if (!module) throw py::type_error("backend 'torchscript' needs a torch.jit.ScriptModule");
    backend = std::make_shared<ScriptBackend>(*module, method);
  }
  return std::make_shared<BoundPredictor>(std::move(runtime), target, learner, modules, options, std::move(backend));
}

// A model's attributes may refer back to who calls it.
int visit_predictor(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!py::detail::is_holder_constructed(self)) return 0;
  auto* const instance = reinterpret_cast<py::detail::instance*>(self);
  return static_cast<const BoundPredictor*>(instance->get_value_and_holder().value_ptr())->traverse(visit, arg);
}

void let_collector_see(PyHeapTypeObject* made) {
  PyTypeObject& type = made->ht_type;
  type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type.tp_traverse = visit_predictor;
  // The dicts in each cycle are cleared by the collector, which ends it.
  type.tp_clear = [](PyObject* /*self*/) { return 0; };
}

}  // namespace

void register_predictor(py::module_& module) {
  const auto options = [](int priority, std::optional<double> deadline) {
    CallOptions asked;
    asked.priority = priority;
    if (deadline) asked.deadline = after_seconds(*deadline);  // now: learning, and all else that comes first, counts
    return asked;
  };
  py::class_<HandedTurn>(module, "Turn", "The turn of a call that another thread is to make.")
      .def("drop", [](HandedTurn& self) { self.turn.reset(); });
  const py::class_<MeasuredPredictor, std::shared_ptr<MeasuredPredictor>> measured(module, "MeasuredPredictor",
                                                                                   "What torchpool_lab takes.");
  py::class_<BoundPredictor, MeasuredPredictor, std::shared_ptr<BoundPredictor>>(
      module, "Predictor", "Serves one model on a runtime.", py::custom_type_setup(let_collector_see))
      .def(py::init(&make_predictor), py::arg("runtime"), py::arg("target"), py::arg("learner"), py::kw_only(),
           py::arg("name"), py::arg("queue_rows"), py::arg("queue_bytes"), py::arg("reject"), py::arg("first_batch"),
           py::arg("max_batch"), py::arg("max_delay"), py::arg("weight"), py::arg("modules"),
           py::arg("script") = py::none(), py::arg("method") = "forward", py::arg("by_graph") = false,
           py::arg("verify") = 0.01, py::arg("invariant") = false)
      .def(
          "call",
          [options](BoundPredictor& self, const py::tuple& args, const py::object& kwargs, int priority,
                    std::optional<double> deadline, HandedTurn* turn, bool at_once) {
            TurnPtr taken = turn == nullptr ? nullptr : std::exchange(turn->turn, nullptr);
            return self.call(args, kwargs, options(priority, deadline), std::move(taken), !at_once);
          },
          py::arg("args"), py::arg("kwargs"), py::arg("priority") = 0, py::arg("deadline") = py::none(),
          py::arg("turn") = py::none(), py::arg("at_once") = false)
      .def(
          "submit",
          [options](BoundPredictor& self, const py::tuple& args, const py::object& kwargs, const py::object& notified,
                    bool to_loop, bool block, bool reject, int priority, std::optional<double> deadline) {
            const Full full = block ? Full::kBlock : reject ? Full::kReject : Full::kByPolicy;
            return self.submit(args, kwargs, options(priority, deadline), {notified, to_loop}, full);
          },
          py::arg("args"), py::arg("kwargs"), py::arg("notified") = py::none(), py::arg("to_loop") = false,
          py::arg("block") = false, py::arg("reject") = false, py::arg("priority") = 0,
          py::arg("deadline") = py::none())
      .def(
          "submit_future",
          [options](BoundPredictor& self, const py::tuple& args, const py::object& kwargs, int priority,
                    std::optional<double> deadline) {
            return self.submit_future(args, kwargs, options(priority, deadline));
          },
          py::arg("args"), py::arg("kwargs"), py::arg("priority"), py::arg("deadline"))
      .def(
          "line_up",
          [options](BoundPredictor& self, const py::tuple& args, const py::object& kwargs, int priority,
                    std::optional<double> deadline, std::shared_ptr<CallGroup> group,
                    std::shared_ptr<CallWindow> window, py::object predictor, bool here, py::object instead) {
            const CallOwner owner{std::move(group), std::move(window), std::move(predictor), std::move(instead), args};
            return self.line_up(args, kwargs, options(priority, deadline), owner, here);
          },
          py::arg("args"), py::arg("kwargs"), py::arg("priority"), py::arg("deadline"), py::arg("group"),
          py::arg("window"), py::arg("predictor"), py::arg("here"), py::arg("instead") = py::none())
      .def(
          "line_up_each",
          [options](BoundPredictor& self, const py::list& calls, int priority, std::optional<double> deadline,
                    std::shared_ptr<CallGroup> group, std::shared_ptr<CallWindow> window, py::object predictor,
                    bool here, py::object instead) {
            const CallOwner owner{std::move(group), std::move(window), std::move(predictor), std::move(instead), {}};
            return self.line_up_each(calls, options(priority, deadline), owner, here);
          },
          py::arg("calls"), py::arg("priority"), py::arg("deadline"), py::arg("group"), py::arg("window"),
          py::arg("predictor"), py::arg("here"), py::arg("instead") = py::none())
      .def(
          "hand_over",
          [options](BoundPredictor& self, const py::object& future, const py::tuple& args, const py::object& kwargs,
                    int priority, std::optional<double> deadline) {
            self.hand_over(future, args, kwargs, options(priority, deadline));
          },
          py::arg("future"), py::arg("args"), py::arg("kwargs"), py::arg("priority"), py::arg("deadline"))
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
            return self.submit(args, kwargs, asked, {}, Full::kBlock);
          },
          py::arg("args"), py::arg("kwargs"), py::arg("priority") = 0, py::arg("deadline") = py::none(),
          py::arg("dynamic") = false, py::arg("chunk") = 0)
      .def(
          "submit_to",
          [options](BoundPredictor& self, const py::object& results, const py::tuple& args, int priority, bool dynamic,
                    std::int64_t chunk) {
            CallOptions asked = options(priority, std::nullopt);
            asked.schedule = dynamic ? Schedule::kDynamic : Schedule::kGuided;
            asked.chunk = chunk;
            self.submit_to(MapResults::of(results), args, asked);
          },
          py::arg("results"), py::arg("args"), py::arg("priority") = 0, py::arg("dynamic") = false,
          py::arg("chunk") = 0)
      .def(
          "submit_like",
          [](BoundPredictor& self, const py::object& results, const py::iterator& items, std::int64_t most) {
            return self.submit_like(MapResults::of(results), items, most);
          },
          py::arg("results"), py::arg("items"), py::arg("most"))
      .def("inherit", &BoundPredictor::inherit, py::arg("parents"))
      .def("learn", &BoundPredictor::learn_from, py::arg("args"), py::arg("kwargs"))
      .def("settle_promise", &BoundPredictor::settle_promise, py::arg("kind_id"), py::arg("args"), py::arg("kwargs"),
           py::arg("learn"))
      .def("run_plain", &BoundPredictor::run_plain, py::arg("args"), py::arg("kwargs"))
      .def("set_batch", &BoundPredictor::set_batch, py::arg("first"), py::arg("most"))
      .def("serve", &BoundPredictor::serve, py::arg("kind_id"), py::arg("number"), py::arg("contract"), py::arg("spec"),
           py::arg("graph"), py::arg("first_batch"), py::arg("max_batch"), py::arg("by_module") = false)
      .def("learn_again", &BoundPredictor::learn_again, py::arg("kind_id"), py::arg("number"), py::arg("seconds"))
      .def("tell_refuted", &BoundPredictor::tell_refuted)
      .def_property_readonly("volatile_attributes", &BoundPredictor::volatile_attributes)
      .def("close", &BoundPredictor::close, py::arg("fail_waiting"))
      .def("wait_drained", &BoundPredictor::wait_drained, py::arg("timeout") = py::none())
      .def("stats", &BoundPredictor::stats)
      .def("forget_learned", &BoundPredictor::forget_learned)
      .def("graphs", &BoundPredictor::graphs)
      .def("weights_written", &BoundPredictor::weights_written)
      .def_property_readonly("module_changed", &BoundPredictor::module_changed)
      .def_property_readonly("closed", &BoundPredictor::closed)
      .def_property_readonly("gate", &BoundPredictor::gate)
      .def_property_readonly("backend", &BoundPredictor::backend_name);
}

}  // namespace torchpool
