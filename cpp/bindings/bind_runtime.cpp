#include "bindings/bound_runtime.h"
#include "bindings/pending.h"
#include "core/topology.h"

namespace torchpool {

BoundRuntime::BoundRuntime(int workers, py::object notify_futures, py::object notify_loops)
    : futures_(std::make_shared<Resolver>(std::move(notify_futures))),
      loops_(std::make_shared<Resolver>(std::move(notify_loops))) {
  RuntimeOptions options;
  options.workers = workers;
  options.interpreter.gate = &gate_;
  options.interpreter.stop = [](int /*worker*/) { GilGate::stop_thread(); };
  core_ = std::make_unique<Runtime>(std::move(options));
}

BoundRuntime::~BoundRuntime() {
  close();
}

void BoundRuntime::close() {
  const py::gil_scoped_release release;
  core_->close();
  futures_->close();
  loops_->close();
}

void register_runtime(py::module_& module) {
  py::class_<BoundRuntime, std::shared_ptr<BoundRuntime>>(module, "Runtime", "Workers and cores of a process.")
      .def(py::init<int, py::object, py::object>(), py::arg("workers"), py::arg("notify_futures"),
           py::arg("notify_loops"))
      .def_property_readonly("workers", [](BoundRuntime& runtime) { return runtime.core().workers(); })
      .def("forbid_inline", &BoundRuntime::forbid_inline)
      .def("close", &BoundRuntime::close);
  module.def("after_fork_in_child", [] {
    set_main_thread();
    GilReclaimer::instance().after_fork_in_child();
  });
  module.def(
      "leak", [](const py::object& object) { object.inc_ref(); },
      "Keeps an object for ever: one whose threads did not survive a fork can be neither used nor destroyed.");
  module.def("usable_cores", [] { return usable_cores(read_topology()); });
  module.def("describe_topology", [] { return read_topology().describe(); });
  module.def(
      "on_worker_thread", [] { return Runtime::on_worker_thread() || Resolver::on_resolver_thread(); },
      "True on a thread that must not wait for another call: a worker, or one that runs callbacks.");
}

}  // namespace torchpool
