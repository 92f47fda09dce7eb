#include <torch/csrc/utils/pybind.h>

#include "bindings/graph/module_watch.h"
#include "predict/weights/probed_weights.h"

namespace torchpool {

namespace {

const char* to_string(WeightChange change) noexcept {
  return change == WeightChange::kSame ? "same" : change == WeightChange::kValues ? "values" : "meta";
}

py::object text_or_none(const Change& change) {
  return change ? py::object(py::str(change.text)) : py::none();
}

}  // namespace

void register_watches(py::module_& module) {
  py::class_<ModuleWatch>(module, "ModuleWatch", "Sees what happens to modules between calls.")
      .def(py::init<const py::list&>(), py::arg("modules"))
      .def("look", [](ModuleWatch& self) { return text_or_none(self.look()); })
      .def("kind", [](ModuleWatch& self) { return to_string(self.look().kind); })
      .def("rebase", &ModuleWatch::rebase)
      .def("rebase_after_run",
           [](ModuleWatch& self, const py::function& own) {
             return text_or_none(self.rebase_after_run(
                 [&own](const Difference& found) { return own(found.name, found.items).cast<bool>(); }));
           })
      .def_property_readonly("volatile_names", &ModuleWatch::volatile_names)
      .def_property_readonly("stamps", &ModuleWatch::stamps);
  py::class_<ProbedWeights>(module, "WeightWatch", "Sees what happens to the contents of weights.")
      .def(py::init<std::vector<at::Tensor>>(), py::arg("weights"))
      .def("look", [](const ProbedWeights& self) { return to_string(self.look()); });
}

}  // namespace torchpool
