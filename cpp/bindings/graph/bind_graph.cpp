#include <malloc.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "bindings/graph/bind_graph.h"
#include "bindings/graph/graph_from_python.h"
#include "predict/batch/thread_scope.h"
#include "predict/graph/graph_backend.h"
#include "predict/kernels/linear_op.h"
#include "predict/kernels/operators.h"

namespace torchpool {

namespace {

std::vector<at::Tensor> tensors_from(const py::iterable& values) {
  std::vector<at::Tensor> tensors;
  for (const py::handle value : values) {
    if (!THPVariable_Check(value.ptr())) throw py::type_error("expected a tensor");
    tensors.push_back(THPVariable_Unpack(value.ptr()));
  }
  return tensors;
}

py::list list_of(const std::vector<at::Tensor>& tensors) {
  py::list list(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    list[i] = py::reinterpret_steal<py::object>(THPVariable_Wrap(tensors[i]));
  }
  return list;
}

std::shared_ptr<graph::GraphBackend> make_backend(const py::object& packed, const py::object& plain) {
  auto weights = tensors_from(packed.attr("weights"));
  auto packed_program = program_from_python(packed);
  auto plain_program = program_from_python(plain);
  const GilRelease release;
  return std::make_shared<graph::GraphBackend>(std::move(packed_program), std::move(plain_program), std::move(weights),
                                               GilReclaimer::instance());
}

py::list run(const graph::GraphBackend& self, const py::iterable& leaves, bool plain) {
  std::vector<at::Tensor> inputs = tensors_from(leaves);
  std::vector<at::Tensor> outputs;
  {
    std::vector<at::Tensor> detached;
    detached.reserve(inputs.size());
    for (const at::Tensor& input : inputs) detached.push_back(input.detach());
    const GilRelease release;
    outputs = self.run_leaves(std::move(detached), plain, nullptr);
  }
  for (at::Tensor& output : outputs) output = output.clone();  // outside of inference mode: an ordinary tensor
  return list_of(outputs);
}

py::list profile(const graph::GraphBackend& self, const py::iterable& leaves, int runs, bool plain) {
  const std::vector<at::Tensor> inputs = tensors_from(leaves);
  graph::Profile profile(self.program(plain).body.size());
  {
    const GilRelease release;
    const IntraOpScope as_one_of_many_workers(1);
    for (int i = 0; i < runs; ++i) self.run_leaves(inputs, plain, &profile);
  }
  py::list rows;
  for (std::size_t i = 0; i < profile.ns.size(); ++i) {
    rows.append(py::make_tuple(self.program(plain).body[i].name,
                               static_cast<double>(profile.ns[i]) * 1e-9 / static_cast<double>(profile.runs)));
  }
  return rows;
}

// Every method requires the interpreter's lock, as does destroying it.
class StagedWeights {
 public:
  StagedWeights(const py::iterable& live, const py::iterable& staged)
      : live_(tensors_from(live)), staged_(tensors_from(staged)) {
    if (live_.size() != staged_.size()) throw py::value_error("as many staged weights as live ones are needed");
    for (std::size_t i = 0; i < live_.size(); ++i) by_live_[live_[i].unsafeGetTensorImpl()] = &staged_[i];
  }

  void pack(std::shared_ptr<graph::GraphBackend> backend) {
    const auto staged = [&](const at::Tensor& live) -> const at::Tensor* {
      const auto found = by_live_.find(live.unsafeGetTensorImpl());
      return found == by_live_.end() ? nullptr : found->second;
    };
    graph::GraphBackend::Staged made;
    {
      const GilRelease release;
      const IntraOpScope as_one_of_many_workers(1);
      made = backend->pack_aside(staged, shared_);
    }
    packed_.emplace_back(std::move(backend), std::move(made));
  }

  // To be called before the weights are written, when nobody else writes any more. A part of one graph may have been
  // packed for another.
  void recheck() {
    const bool written = std::any_of(packed_.begin(), packed_.end(),
                                     [](const auto& one) { return one.first->writes() != one.second.writes; });
    if (written) packed_.clear();
  }

  void adopt() {
    for (const auto& [backend, staged] : packed_) backend->adopt(staged);
    packed_.clear();
    shared_.clear();
  }

 private:
  std::vector<at::Tensor> live_;
  std::vector<at::Tensor> staged_;
  std::unordered_map<const c10::TensorImpl*, const at::Tensor*> by_live_;
  graph::GraphBackend::SharedAside shared_;
  std::vector<std::pair<std::shared_ptr<graph::GraphBackend>, graph::GraphBackend::Staged>> packed_;
};

}  // namespace

void register_graph(py::module_& module) {
  kernels::register_operators();
  module.def(
      "trim_heap",
      [] {
        const GilRelease release;
        malloc_trim(0);
      },
      "Gives memory that is free back to the system.");
  py::class_<graph::GraphBackend, std::shared_ptr<graph::GraphBackend>>(
      module, "GraphBackend", "A captured graph of a module, with its weights prepared.")
      .def(py::init(&make_backend), py::arg("packed"), py::arg("plain"))
      .def("run", &run, py::arg("leaves"), py::arg("plain") = false)
      .def_property_readonly("is_packed", &graph::GraphBackend::is_packed)
      .def("profile", &profile, py::arg("leaves"), py::arg("runs") = 1, py::arg("plain") = false)
      .def(
          "text", [](const graph::GraphBackend& self, bool plain) { return self.program(plain).text; },
          py::arg("plain") = false);
  py::class_<StagedWeights>(module, "StagedWeights",
                            "Weights that a module is to have soon, and packed copies of them.")
      .def(py::init<const py::iterable&, const py::iterable&>(), py::arg("live"), py::arg("staged"))
      .def("pack", &StagedWeights::pack, py::arg("graph"))
      .def("recheck", &StagedWeights::recheck,
           "Drops the packed copies where others have written weights since: those that are not staged are packed in, "
           "too.")
      .def("adopt", &StagedWeights::adopt);
  module.def(
      "linear_isa", [] { return kernels::name_of(kernels::present_linear_kernel().isa); },
      "The instruction set of torchpool's own linear layers. Raises ValueError where TORCHPOOL_ISA is none.");
  module.def(
      "packed_weights",
      [] {
        const auto usage = graph::PackedWeights::of_this_process().usage();
        return py::make_tuple(usage.count, usage.bytes);
      },
      "How many packed weights the process holds, each once for all graphs that read it, and their bytes.");
}

}  // namespace torchpool
