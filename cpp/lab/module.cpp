// The extension module torchpool_lab: what benchmarks and tests measure with. No wheel has it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "lab/fma_peak.h"
#include "lab/open_loop.h"
#include "lab/simulate.h"
#include "lab/simulator/fixed_policy.h"

namespace torchpool {

namespace {

void set_fixed_batches(MeasuredPredictor& predictor, std::optional<std::pair<std::int64_t, double>> fixed) {
  if (!fixed) return predictor.set_policy({});
  const auto [rows, seconds] = *fixed;
  const Duration delay = from_seconds(seconds);
  predictor.set_policy([rows, delay](const auto& /*cost*/) { return std::make_unique<FixedPolicy>(rows, delay); });
}

}  // namespace

}  // namespace torchpool

PYBIND11_MODULE(torchpool_lab, module) {
  namespace py = pybind11;
  module.doc() = "Measures torchpool's scheduling: on simulated time, and under a scheduled load.";
  py::module_::import("torchpool");  // registers the types that the functions take
  module.def("simulate", &torchpool::simulate_calls, py::arg("workers"), py::arg("cores_per_batch"),
             py::arg("predictors"), py::arg("calls"),
             "The scheduling policy on simulated time; see benchmarks/scheduling/simulation.py.");
  module.def("open_loop", &torchpool::open_loop, py::arg("predictor"), py::arg("calls"), py::arg("arrivals"),
             py::kw_only(), py::arg("deadline") = py::none(), py::arg("priority") = 0, py::arg("block") = false,
             "Submits calls by a schedule from a native thread, and tells what became of each.");
  module.def("set_fixed_batches", &torchpool::set_fixed_batches, py::arg("predictor"), py::arg("rows_and_delay"),
             "Batches of a fixed size after a fixed delay (seconds) instead of what is learned; None: learned again.");
  module.def("fma_peak", &torchpool::fma_peak, py::arg("isa"), py::call_guard<py::gil_scoped_release>(),
             "The most that one thread can compute by 'avx2' or 'avx512', in 1e9 operations a second.");
}
