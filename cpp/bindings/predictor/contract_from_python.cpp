#include "bindings/predictor/contract_from_python.h"

#include <torch/csrc/Dtype.h>

#include <string>
#include <unordered_map>

#include "bindings/predictor/python_backend.h"
#include "core/sync/error.h"

namespace torchpool {

namespace {

using Symbols = std::unordered_map<std::string, std::size_t>;

std::optional<std::int64_t> optional_size(const py::handle& value) {
  if (value.is_none()) return std::nullopt;
  return value.cast<std::int64_t>();
}

at::Scalar scalar_from_python(const py::handle& value) {
  if (py::isinstance<py::bool_>(value)) return value.cast<bool>();
  if (py::isinstance<py::int_>(value)) return value.cast<std::int64_t>();
  return value.cast<double>();
}

InputSpec input_from_python(const py::handle& source, Symbols& symbols) {
  InputSpec spec;
  spec.name = source.attr("name").cast<std::string>();
  const py::object dtype = source.attr("dtype");
  if (!THPDtype_Check(dtype.ptr())) throw py::type_error("InputSpec.dtype must be a torch.dtype");
  spec.dtype = reinterpret_cast<THPDtype*>(dtype.ptr())->scalar_type;
  spec.device = at::Device(source.attr("device").cast<std::string>());
  spec.batch_dim = optional_size(source.attr("batch_dim"));
  spec.stacked = source.attr("stacked").cast<bool>();
  for (const py::handle size : source.attr("sizes")) {
    DimSpec dim;
    if (py::isinstance<py::int_>(size)) {
      dim.value = size.cast<std::int64_t>();
    } else if (const auto text = size.cast<std::string>(); text == "batch") {
      dim.kind = DimSpec::Kind::kBatch;
    } else {
      dim.kind = DimSpec::Kind::kSymbol;
      dim.value = static_cast<std::int64_t>(symbols.emplace(text, symbols.size()).first->second);
    }
    spec.sizes.push_back(dim);
  }
  if (const py::object pad = source.attr("pad"); !pad.is_none()) spec.pad = scalar_from_python(pad);
  return spec;
}

OutputSpec output_from_python(const py::handle& source, const Symbols& symbols) {
  OutputSpec spec;
  spec.name = source.attr("name").cast<std::string>();
  spec.batch_dim = optional_size(source.attr("batch_dim"));
  spec.stacked = source.attr("stacked").cast<bool>();
  spec.outer = optional_size(source.attr("outer")).value_or(0);
  spec.inner = optional_size(source.attr("inner")).value_or(0);
  for (const py::handle trim : source.attr("trims")) {
    spec.trims.push_back({trim.attr("dim").cast<std::int64_t>(), symbols.at(trim.attr("symbol").cast<std::string>()),
                          trim.attr("scale").cast<std::int64_t>(), trim.attr("offset").cast<std::int64_t>()});
  }
  return spec;
}

}  // namespace

std::shared_ptr<Contract> contract_from_python(const py::object& source, const py::object& spec) {
  auto contract = std::make_shared<Contract>();
  Symbols symbols;
  for (const py::handle input : source.attr("inputs")) {
    contract->inputs.push_back(input_from_python(input, symbols));
  }
  for (const py::handle output : source.attr("outputs")) {
    contract->outputs.push_back(output_from_python(output, symbols));
  }
  contract->padded.resize(symbols.size(), false);
  for (const py::handle symbol : source.attr("padded")) {
    contract->padded.at(symbols.at(symbol.cast<std::string>())) = true;
  }
  contract->aliases = source.attr("aliases").cast<bool>();
  contract->call_rows = optional_size(source.attr("call_rows"));
  if (const py::object tolerance = source.attr("tolerance"); !tolerance.is_none()) {
    contract->tolerance = tolerance.cast<double>();
  }
  if (!spec.is_none()) {
    const bool bare = spec.attr("is_single_tensor").cast<bool>();
    contract->result_form = std::make_shared<const PyResultForm>(bare ? nullptr : make_ref(spec));
  }
  contract->identity = Contract::next_identity();
  return contract;
}

}  // namespace torchpool
