#include "bindings/interpreter/plain_value.h"

#include <torch/csrc/Device.h>

#include <bit>
#include <cstdint>

namespace torchpool {

namespace {

constexpr int kMaxDepth = 4;
constexpr std::size_t kMaxText = 60;

bool is_scalar(PyObject* value) {
  return PyLong_CheckExact(value) || PyUnicode_CheckExact(value) || PyBool_Check(value) ||
         PyComplex_CheckExact(value) || PyBytes_CheckExact(value);
}

bool same(PyObject* one, PyObject* other, int depth) {
  if (one == other) return true;
  if (Py_TYPE(one) != Py_TYPE(other)) return false;
  if (PyFloat_CheckExact(one)) {
    // A NaN is itself, -0.0 is not 0.0.
    return std::bit_cast<std::uint64_t>(PyFloat_AS_DOUBLE(one)) ==
           std::bit_cast<std::uint64_t>(PyFloat_AS_DOUBLE(other));
  }
  if (is_scalar(one)) return PyObject_RichCompareBool(one, other, Py_EQ) == 1;
  if (THPDevice_Check(one)) {
    return reinterpret_cast<THPDevice*>(one)->device == reinterpret_cast<THPDevice*>(other)->device;
  }
  if (depth == kMaxDepth) return false;
  if (PyTuple_Check(one) || PyList_CheckExact(one)) {  // also named tuples and torch.Size
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(one);
    if (size != PySequence_Fast_GET_SIZE(other)) return false;
    for (Py_ssize_t i = 0; i < size; ++i) {
      if (!same(PySequence_Fast_GET_ITEM(one, i), PySequence_Fast_GET_ITEM(other, i), depth + 1)) return false;
    }
    return true;
  }
  if (PyDict_CheckExact(one)) {
    if (PyDict_GET_SIZE(one) != PyDict_GET_SIZE(other)) return false;
    Py_ssize_t at = 0;
    Py_ssize_t other_at = 0;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    PyObject* other_key = nullptr;
    PyObject* other_value = nullptr;
    while (PyDict_Next(one, &at, &key, &value) != 0 && PyDict_Next(other, &other_at, &other_key, &other_value) != 0) {
      if (!same(key, other_key, depth + 1) || !same(value, other_value, depth + 1)) return false;
    }
    return true;
  }
  return false;
}

}  // namespace

bool same_value(PyObject* one, PyObject* other) {
  return same(one, other, 0);
}

std::string value_text(PyObject* value) {
  if (value != Py_None && !PyFloat_CheckExact(value) && !is_scalar(value) && !THPDevice_Check(value)) {
    return std::string("a ") + Py_TYPE(value)->tp_name;
  }
  const auto text = py::repr(value).cast<std::string>();
  return text.size() <= kMaxText ? text : text.substr(0, kMaxText) + "...";
}

std::string key_text(PyObject* key) {
  return PyUnicode_CheckExact(key) ? py::str(py::handle(key)).cast<std::string>() : value_text(key);
}

}  // namespace torchpool
