#include "bindings/call/script_form.h"

#include <torch/csrc/jit/python/pybind_utils.h>

namespace torchpool {

namespace {

using Node = PyCallForm::Node;

c10::TypePtr without_optional(c10::TypePtr type) {
  while (type) {
    const auto optional = type->cast<c10::OptionalType>();
    if (!optional) break;
    type = optional->getElementType();
  }
  return type;
}

c10::TypePtr element_type(const c10::TypePtr& container, std::size_t index) {
  if (!container) return nullptr;
  if (const auto list = container->cast<c10::ListType>()) return list->getElementType();
  if (const auto dict = container->cast<c10::DictType>()) return dict->getValueType();
  if (const auto tuple = container->cast<c10::TupleType>(); tuple && index < tuple->elements().size()) {
    return tuple->elements()[index];
  }
  return nullptr;
}

void assign(std::vector<Node>& nodes, std::size_t& at, const c10::TypePtr& declared) {
  Node& node = nodes[at++];
  if (node.kind == Node::Kind::kTensor) return;
  if (node.kind == Node::Kind::kValue) {
    if (!declared) return;
    try {
      node.script_value = torch::jit::toIValue(borrow(node.value), declared);
    } catch (const std::exception&) {
      node.script_value = {};  // the run's schema check refuses it, in torch's words
    }
    return;
  }
  node.script_type = without_optional(declared);
  for (std::size_t i = 0; i < node.count; ++i) assign(nodes, at, element_type(node.script_type, i));
}

c10::IValue build_value(const std::vector<Node>& nodes, std::size_t& at, std::vector<at::Tensor>& leaves,
                        std::size_t& leaf) {
  const Node& node = nodes[at++];
  if (node.kind == Node::Kind::kTensor) return std::move(leaves.at(leaf++));
  if (node.kind == Node::Kind::kValue) return node.script_value;
  std::vector<c10::IValue> elements;
  elements.reserve(node.count);
  for (std::size_t i = 0; i < node.count; ++i) elements.push_back(build_value(nodes, at, leaves, leaf));
  if (const auto list_type = node.script_type ? node.script_type->cast<c10::ListType>() : nullptr) {
    c10::impl::GenericList list(list_type->getElementType());
    for (auto& element : elements) list.push_back(std::move(element));
    return list;
  }
  if (const auto dict_type = node.script_type ? node.script_type->cast<c10::DictType>() : nullptr) {
    c10::impl::GenericDict dict(dict_type->getKeyType(), dict_type->getValueType());
    for (std::size_t i = 0; i < elements.size(); ++i) dict.insert(node.names[i], std::move(elements[i]));
    return dict;
  }
  return c10::ivalue::Tuple::create(std::move(elements));
}

}  // namespace

void assign_script_types(std::vector<Node>& nodes, const c10::FunctionSchema& schema) {
  const auto& arguments = schema.arguments();  // the first is the module
  std::size_t at = 1;
  for (std::size_t i = 0; i < nodes.front().count; ++i) {
    assign(nodes, at, i + 1 < arguments.size() ? arguments[i + 1].type() : nullptr);
  }
  const std::vector<std::string> names = nodes[at++].names;
  for (const std::string& name : names) {
    const auto index = schema.argumentIndexWithName(name);
    assign(nodes, at, index ? arguments[static_cast<std::size_t>(*index)].type() : nullptr);
  }
}

void PyCallForm::arguments(std::vector<at::Tensor> inputs, std::vector<c10::IValue>& positional,
                           std::unordered_map<std::string, c10::IValue>& keyword) const {
  std::size_t at = 1;  // inside the args tuple
  std::size_t leaf = 0;
  for (std::size_t i = 0; i < nodes_.front().count; ++i) positional.push_back(build_value(nodes_, at, inputs, leaf));
  const Node& named = nodes_[at++];
  for (const std::string& name : named.names) keyword.emplace(name, build_value(nodes_, at, inputs, leaf));
}

}  // namespace torchpool
