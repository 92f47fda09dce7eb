#include "bindings/inplace/call_arguments.h"

#include <torch/csrc/Device.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Layout.h>
#include <torch/csrc/MemoryFormat.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>

#include "predict/batch/hash.h"

namespace torchpool {

namespace {

constexpr int kMaxDepth = 16;  // of containers in one another

bool is_scalar(PyObject* value) {
  return value == Py_None || PyLong_CheckExact(value) || PyFloat_CheckExact(value) || PyBool_Check(value) ||
         PyUnicode_CheckExact(value) || PyComplex_CheckExact(value) || PyBytes_CheckExact(value) ||
         THPDtype_Check(value) || THPDevice_Check(value) || THPLayout_Check(value) || THPMemoryFormat_Check(value);
}

std::uint64_t address(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer);
}

}  // namespace

CallArguments::CallArguments(PyObject* args, PyObject* kwargs) {
  add(args, 0);
  if (kwargs != nullptr && plain_) add(kwargs, 0);
}

void CallArguments::mix(std::uint64_t word) noexcept {
  structure_ = add_word(structure_, word);
}

void CallArguments::add(PyObject* value, int depth) {
  if (!plain_) return;
  if (THPVariable_Check(value)) {
    mix(address(Py_TYPE(value)));
    requires_grad_ = requires_grad_ || THPVariable_Unpack(value).requires_grad();
    return;
  }
  if (is_scalar(value)) {
    mix(address(PyBool_Check(value) ? value : reinterpret_cast<PyObject*>(Py_TYPE(value))));
    return;
  }
  const bool entered = depth < kMaxDepth;
  if (entered && (PyTuple_CheckExact(value) || PyList_CheckExact(value))) {
    mix(address(Py_TYPE(value)) + static_cast<std::uint64_t>(PySequence_Fast_GET_SIZE(value)));
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(value); ++i) add(PySequence_Fast_GET_ITEM(value, i), depth + 1);
  } else if (entered && PyDict_CheckExact(value)) {
    mix(address(Py_TYPE(value)));
    Py_ssize_t at = 0;
    PyObject* key = nullptr;
    PyObject* item = nullptr;
    while (PyDict_Next(value, &at, &key, &item) != 0) {
      if (!is_scalar(key)) plain_ = false;
      if (!plain_) return;
      mix(static_cast<std::uint64_t>(PyObject_Hash(key)));
      add(item, depth + 1);
    }
  } else {
    plain_ = false;
  }
}

ArgumentsWatch::ArgumentsWatch(PyObject* args, PyObject* kwargs) {
  add(args);
  if (kwargs != nullptr) {
    for (const py::object& item : items_of(kwargs)) add(item.ptr());  // the dict itself is the call's own
  }
}

std::vector<py::object> ArgumentsWatch::items_of(PyObject* container) {
  std::vector<py::object> items;
  const auto keep = [&items](PyObject* item) { items.push_back(py::reinterpret_borrow<py::object>(item)); };
  if (PyTuple_CheckExact(container)) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(container); ++i) keep(PyTuple_GET_ITEM(container, i));
  } else if (PyList_CheckExact(container)) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(container); ++i) keep(PyList_GET_ITEM(container, i));
  } else if (PyDict_CheckExact(container)) {
    Py_ssize_t at = 0;
    PyObject* key = nullptr;
    PyObject* item = nullptr;
    while (PyDict_Next(container, &at, &key, &item) != 0) {
      keep(key);
      keep(item);
    }
  }
  return items;
}

void ArgumentsWatch::add(PyObject* value) {
  if (THPVariable_Check(value)) {
    const at::Tensor& tensor = THPVariable_Unpack(value);
    if (!tensor.is_inference()) tensors_.emplace_back(tensor, tensor._version());
    return;
  }
  std::vector<py::object> items = items_of(value);
  for (const py::object& item : items) add(item.ptr());
  if (PyList_CheckExact(value) || PyDict_CheckExact(value)) {
    containers_.push_back({py::reinterpret_borrow<py::object>(value), std::move(items)});
  }
}

bool ArgumentsWatch::written() const {
  const auto is_new = [](const auto& seen) { return seen.first._version() != seen.second; };
  if (std::any_of(tensors_.begin(), tensors_.end(), is_new)) return true;
  return std::any_of(containers_.begin(), containers_.end(), [](const Container& seen) {
    const std::vector<py::object> now = items_of(seen.object.ptr());
    return !std::equal(now.begin(), now.end(), seen.items.begin(), seen.items.end(),
                       [](const py::object& one, const py::object& other) { return one.is(other); });
  });
}

}  // namespace torchpool
