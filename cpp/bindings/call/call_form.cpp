#include "bindings/call/call_form.h"

#include <torch/csrc/Device.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <cstring>

#include "bindings/call/script_form.h"
#include "core/sync/error.h"

namespace torchpool {

namespace {

using Node = PyCallForm::Node;

// Ordinary dense tensors; everything else (subclasses, sparse, quantized, functorch wrappers) is left to the model.
bool is_plain_tensor(PyObject* object) {
  if (!THPVariable_CheckExact(object)) return false;
  const at::Tensor& tensor = THPVariable_Unpack(object);
  if (!tensor.defined() || tensor.layout() != at::kStrided || tensor.is_quantized() || tensor.is_conj() ||
      tensor.is_neg()) {
    return false;
  }
  return !tensor.key_set().has_any(
      c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::FuncTorchBatched,
                           c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::Functionalize}));
}

// What raises when it is asked for its class (a proxy of something that is gone) is none.
bool is_enum(PyObject* object) {
  static PyObject* type = py::object(py::module_::import("enum").attr("Enum")).release().ptr();
  const int is = PyObject_IsInstance(object, type);
  if (is < 0) PyErr_Clear();
  return is == 1;
}

void append_bytes(std::string& key, char tag, const void* data, std::size_t size) {
  key.push_back(tag);
  key.append(reinterpret_cast<const char*>(&size), sizeof size);
  key.append(static_cast<const char*>(data), size);
}

// Appends type and value of a plain value; false when it is of no such type. Types are compared exactly: True, 1 and
// 1.0 are equal to Python but not to a model. Objects that live as long as their form are compared by address.
bool append_value(std::string& key, PyObject* object) {
  if (object == Py_None) {
    key.push_back('N');
  } else if (PyBool_Check(object)) {
    key.push_back(object == Py_True ? '1' : '0');
  } else if (PyLong_CheckExact(object)) {
    const std::string digits = py::str(py::handle(object));
    append_bytes(key, 'i', digits.data(), digits.size());
  } else if (PyFloat_CheckExact(object)) {
    const double value = PyFloat_AS_DOUBLE(object);
    append_bytes(key, 'f', &value, sizeof value);
  } else if (PyUnicode_CheckExact(object)) {
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(object, &size);
    if (text == nullptr) {
      PyErr_Clear();  // lone surrogates: such a string cannot be a key
      return false;
    }
    append_bytes(key, 's', text, static_cast<std::size_t>(size));
  } else if (THPDevice_Check(object)) {
    const std::string name = reinterpret_cast<THPDevice*>(object)->device.str();
    append_bytes(key, 'v', name.data(), name.size());
  } else if (THPDtype_Check(object) || is_enum(object)) {
    const auto address = reinterpret_cast<std::uintptr_t>(object);
    append_bytes(key, 'o', &address, sizeof address);
  } else {
    return false;
  }
  return true;
}

std::vector<PyObject*> sorted_keys(PyObject* dict) {
  std::vector<PyObject*> keys;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t at = 0;
  while (PyDict_Next(dict, &at, &key, &value) != 0) keys.push_back(key);
  std::sort(keys.begin(), keys.end(), [](PyObject* a, PyObject* b) { return PyUnicode_Compare(a, b) < 0; });
  return keys;
}

bool has_string_keys(PyObject* dict) {
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t at = 0;
  while (PyDict_Next(dict, &at, &key, &value) != 0) {
    if (!PyUnicode_CheckExact(key)) return false;
  }
  return true;
}

std::string inner_path(const std::string& path, const std::string& key) {
  if (path.empty()) return key;
  std::string inner = path;
  inner += '[';
  inner += key;
  inner += ']';
  return inner;
}

// Walks the arguments and tells a visitor of each tensor, value and container. A visitor returns false to stop.
template <typename Visitor>
bool walk(PyObject* object, const std::string& path, Visitor& visitor, int depth) {
  if (is_plain_tensor(object)) return visitor.tensor(THPVariable_Unpack(object), path);
  if (depth < 16 && (PyTuple_CheckExact(object) || PyList_CheckExact(object))) {
    const bool is_tuple = PyTuple_CheckExact(object);
    const auto count = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(object));
    visitor.sequence(is_tuple, count);
    for (std::size_t i = 0; i < count; ++i) {
      PyObject* item = PySequence_Fast_GET_ITEM(object, static_cast<Py_ssize_t>(i));
      if (!walk(item, inner_path(path, std::to_string(i)), visitor, depth + 1)) return false;
    }
    return true;
  }
  if (depth < 16 && PyDict_CheckExact(object) && has_string_keys(object)) {
    // Keyword arguments come in any order; a dict argument's order may matter to the model.
    std::vector<PyObject*> keys;
    if (depth == 0) {
      keys = sorted_keys(object);
    } else {
      PyObject* key = nullptr;
      PyObject* value = nullptr;
      Py_ssize_t at = 0;
      while (PyDict_Next(object, &at, &key, &value) != 0) keys.push_back(key);
    }
    visitor.dict(keys);
    for (PyObject* key : keys) {
      const std::string name = py::str(py::handle(key));
      if (!walk(PyDict_GetItem(object, key), inner_path(path, name), visitor, depth + 1)) return false;
    }
    return true;
  }
  return visitor.value(object, path);
}

struct Flattener {
  FlatCall& flat;
  bool tensor(const at::Tensor& tensor, const std::string& /*path*/) {
    flat.key.push_back('T');
    flat.leaves.push_back(tensor);
    return true;
  }
  void sequence(bool is_tuple, std::size_t count) {
    append_bytes(flat.key, is_tuple ? '(' : '[', &count, sizeof count);
  }
  void dict(const std::vector<PyObject*>& keys) {
    const std::size_t count = keys.size();
    append_bytes(flat.key, '{', &count, sizeof count);
    for (PyObject* key : keys) append_value(flat.key, key);
  }
  bool value(PyObject* object, const std::string& path) {
    if (append_value(flat.key, object)) return true;
    flat.opaque = {path, Py_TYPE(object)->tp_name};
    return false;
  }
};

struct FormBuilder {
  std::vector<Node> nodes;
  std::vector<std::string> names;
  bool tensor(const at::Tensor& /*tensor*/, const std::string& path) {
    nodes.push_back(node(Node::Kind::kTensor));
    names.push_back(path);
    return true;
  }
  void sequence(bool is_tuple, std::size_t count) {
    nodes.push_back(node(is_tuple ? Node::Kind::kTuple : Node::Kind::kList, count));
  }
  void dict(const std::vector<PyObject*>& keys) {
    Node dict = node(Node::Kind::kDict, keys.size());
    for (PyObject* key : keys) {
      dict.keys.push_back(make_ref(py::reinterpret_borrow<py::object>(key)));
      dict.names.push_back(py::str(py::handle(key)));
    }
    nodes.push_back(std::move(dict));
  }
  bool value(PyObject* object, const std::string& /*path*/) {
    Node value = node(Node::Kind::kValue);
    value.value = make_ref(py::reinterpret_borrow<py::object>(object));
    nodes.push_back(std::move(value));
    return true;
  }

 private:
  static Node node(Node::Kind kind, std::size_t count = 0) {
    Node made;
    made.kind = kind;
    made.count = count;
    return made;
  }
};

template <typename Visitor>
bool walk_call(PyObject* args, PyObject* kwargs, Visitor& visitor) {
  if (!walk(args, "", visitor, 0)) return false;
  if (kwargs != nullptr) return walk(kwargs, "", visitor, 0);
  visitor.dict({});
  return true;
}

py::object build_node(const std::vector<Node>& nodes, std::size_t& at, const std::vector<at::Tensor>& leaves,
                      std::size_t& leaf) {
  const Node& node = nodes[at++];
  switch (node.kind) {
    case Node::Kind::kTensor:
      return py::reinterpret_steal<py::object>(THPVariable_Wrap(leaves.at(leaf++)));
    case Node::Kind::kValue:
      return borrow(node.value);
    case Node::Kind::kTuple: {
      py::tuple tuple(node.count);
      for (std::size_t i = 0; i < node.count; ++i) tuple[i] = build_node(nodes, at, leaves, leaf);
      return tuple;
    }
    case Node::Kind::kList: {
      py::list list(node.count);
      for (std::size_t i = 0; i < node.count; ++i) list[i] = build_node(nodes, at, leaves, leaf);
      return list;
    }
    case Node::Kind::kDict: {
      py::dict dict;
      for (std::size_t i = 0; i < node.count; ++i) dict[borrow(node.keys[i])] = build_node(nodes, at, leaves, leaf);
      return dict;
    }
  }
  throw Error("unreachable: unknown node kind");
}

}  // namespace

void flatten_call(PyObject* args, PyObject* kwargs, FlatCall& flat) {
  flat.key.clear();
  flat.leaves.clear();
  flat.opaque = {};
  if ((kwargs == nullptr || PyDict_GET_SIZE(kwargs) == 0) && PyTuple_GET_SIZE(args) == 1 &&
      is_plain_tensor(PyTuple_GET_ITEM(args, 0))) {
    flat.key.push_back('T');  // by far the commonest call
    flat.leaves.push_back(THPVariable_Unpack(PyTuple_GET_ITEM(args, 0)));
    return;
  }
  Flattener flattener{flat};
  walk_call(args, kwargs, flattener);
}

std::shared_ptr<PyCallForm> make_form(PyObject* args, PyObject* kwargs, const c10::FunctionSchema* schema) {
  FormBuilder builder;
  walk_call(args, kwargs, builder);
  if (schema != nullptr) assign_script_types(builder.nodes, *schema);
  return std::make_shared<PyCallForm>(std::move(builder.nodes), std::move(builder.names));
}

std::pair<py::tuple, py::dict> PyCallForm::build(const std::vector<at::Tensor>& leaves) const {
  std::size_t at = 0;
  std::size_t leaf = 0;
  auto args = py::reinterpret_borrow<py::tuple>(build_node(nodes_, at, leaves, leaf));
  auto kwargs = py::reinterpret_borrow<py::dict>(build_node(nodes_, at, leaves, leaf));
  return {std::move(args), std::move(kwargs)};
}

}  // namespace torchpool
