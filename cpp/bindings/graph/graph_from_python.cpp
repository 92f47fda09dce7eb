#include "bindings/graph/graph_from_python.h"

#include <ATen/ScalarOps.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <string>
#include <unordered_map>

namespace torchpool {

namespace {

using graph::Argument;
using graph::Instruction;
using graph::SlotIndex;

c10::IValue plain_value(const py::handle& value) {
  if (PyBool_Check(value.ptr())) return value.cast<bool>();
  if (PyLong_Check(value.ptr())) return value.cast<std::int64_t>();
  if (PyFloat_Check(value.ptr())) return value.cast<double>();
  if (PyUnicode_Check(value.ptr())) return value.cast<std::string>();
  throw py::value_error("expected a number, got " + py::repr(value).cast<std::string>());
}

// What of an instruction's arguments is meant by position, by name, or left to its default.
class Reader {
 public:
  Reader() : slot_type_(py::module_::import("torchpool.capture.program").attr("Slot")) {}

  Instruction read(const py::handle& described) const {
    Instruction instruction;
    const auto op = described.attr("op").cast<std::string>();
    const py::object overload = described.attr("overload");
    instruction.name = op;
    instruction.outputs = described.attr("outputs").cast<std::vector<SlotIndex>>();
    instruction.spread = described.attr("spread").cast<bool>();
    const auto args = described.attr("args").cast<py::tuple>();
    if (overload.is_none()) {
      read_scalar(instruction, op, args);
      return instruction;
    }
    const auto overload_name = overload.cast<std::string>();
    if (!overload_name.empty()) instruction.name += "." + overload_name;
    instruction.op = c10::Dispatcher::singleton().findSchema({op, overload_name});
    if (!instruction.op) throw py::value_error("operator " + instruction.name + " is not registered");
    instruction.by_row = described.attr("by_row").cast<std::vector<std::int32_t>>();
    const auto kwargs = described.attr("kwargs").cast<py::dict>();
    const auto& expected = instruction.op->schema().arguments();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const py::str name(expected[i].name());
      try {
        if (i < args.size()) {
          instruction.arguments.push_back(argument(args[i], expected[i].type()));
        } else if (kwargs.contains(name)) {
          instruction.arguments.push_back(argument(kwargs[name], expected[i].type()));
        } else if (expected[i].default_value()) {
          instruction.arguments.push_back({.constant = *expected[i].default_value()});
        } else {
          throw py::value_error("it is missing");
        }
      } catch (const std::exception& error) {
        throw py::value_error("argument '" + expected[i].name() + "' of " + instruction.name + ": " + error.what());
      }
    }
    if (!instruction.by_row.empty()) {
      if (instruction.by_row.size() != instruction.outputs.size()) {
        throw py::value_error(instruction.name + " runs by row: expected a dim of rows for each result");
      }
      mark_rows(instruction.arguments, described.attr("row_dims").cast<RowDims>());
    }
    return instruction;
  }

 private:
  void read_scalar(Instruction& instruction, const std::string& op, const py::tuple& args) const {
    constexpr std::string_view kPrefix = "py::";
    if (op.starts_with(kPrefix)) instruction.scalar = graph::scalar_op(std::string_view(op).substr(kPrefix.size()));
    if (!instruction.scalar) throw py::value_error("operation " + op + " is not known");
    for (const py::handle arg : args) {
      if (is_slot(arg)) {
        instruction.arguments.push_back(slot(arg));
        continue;
      }
      instruction.arguments.push_back({.constant = plain_value(arg)});
    }
  }

  bool is_slot(const py::handle& value) const { return py::isinstance(value, slot_type_); }

  using RowDims = std::unordered_map<SlotIndex, std::int32_t>;

  static void mark_rows(std::vector<Argument>& arguments, const RowDims& dims) {
    for (Argument& argument : arguments) {
      if (const auto found = dims.find(argument.slot); found != dims.end()) argument.row_dim = found->second;
      mark_rows(argument.items, dims);
    }
  }

  static Argument slot(const py::handle& value) {
    return {.kind = Argument::Kind::kSlot, .slot = value.attr("index").cast<SlotIndex>()};
  }

  bool holds_slot(const py::handle& value) const {
    if (!py::isinstance<py::list>(value) && !py::isinstance<py::tuple>(value)) return false;
    for (const py::handle item : value) {
      if (is_slot(item)) return true;
    }
    return false;
  }

  Argument argument(const py::handle& value, c10::TypePtr type) const {
    if (const auto optional = type->cast<c10::OptionalType>()) {
      if (value.is_none()) return {};
      type = optional->getElementType();
    }
    if (is_slot(value)) {
      Argument result = slot(value);
      if (type->kind() == c10::TypeKind::TensorType) result.convert = Argument::Convert::kToTensor;
      if (type->kind() == c10::TypeKind::FloatType) result.convert = Argument::Convert::kToDouble;
      return result;
    }
    if (holds_slot(value)) {
      const auto list = type->cast<c10::ListType>();
      if (list == nullptr) throw py::value_error("a list of values where the operator takes " + type->str());
      Argument result{.kind = Argument::Kind::kList, .item_type = list->getElementType()};
      for (const py::handle item : value) result.items.push_back(argument(item, list->getElementType()));
      return result;
    }
    if (type->kind() == c10::TypeKind::TensorType && !THPVariable_Check(value.ptr())) {
      return {.constant = at::native::wrapped_scalar_tensor(plain_value(value).toScalar())};
    }
    return {.constant = torch::jit::toIValue(value, type)};
  }

  py::object slot_type_;
};

graph::Guards guards_from(const py::list& checks) {
  graph::Guards guards;
  for (const py::handle check : checks) {
    if (py::hasattr(check, "low")) {
      graph::ShapeGuard range{check.attr("input").cast<std::size_t>(), check.attr("dim").cast<std::int64_t>(),
                              check.attr("low").cast<std::int64_t>()};
      const py::object high = check.attr("high");
      if (!high.is_none()) range.high = high.cast<std::int64_t>();
      guards.ranges.push_back(range);
    } else {
      guards.equal.push_back({check.attr("input_a").cast<std::size_t>(), check.attr("dim_a").cast<std::int64_t>(),
                              check.attr("input_b").cast<std::size_t>(), check.attr("dim_b").cast<std::int64_t>()});
    }
  }
  return guards;
}

}  // namespace

std::shared_ptr<const graph::Program> program_from_python(const py::object& lowered) {
  auto program = std::make_shared<graph::Program>();
  program->num_slots = lowered.attr("num_slots").cast<std::size_t>();
  program->weight_slots = lowered.attr("weight_slots").cast<std::vector<SlotIndex>>();
  program->input_slots = lowered.attr("input_slots").cast<std::vector<SlotIndex>>();
  program->output_slots = lowered.attr("output_slots").cast<std::vector<SlotIndex>>();
  program->text = lowered.attr("text").cast<std::string>();
  program->guards = guards_from(lowered.attr("checks"));
  program->invariant = lowered.attr("invariant").cast<bool>();
  const Reader reader;
  for (const py::handle described : lowered.attr("prologue")) program->prologue.push_back(reader.read(described));
  for (const py::handle described : lowered.attr("body")) program->body.push_back(reader.read(described));
  program->finish();
  return program;
}

}  // namespace torchpool
