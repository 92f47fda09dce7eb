// What the states of modules are recorded by, and compared by.
#pragma once

#include <pybind11/pybind11.h>
#include <torch/csrc/autograd/python_variable.h>

#include <string>

namespace torchpool {

inline bool is_subtype(PyObject* object, pybind11::handle type) {
  return PyType_IsSubtype(Py_TYPE(object), reinterpret_cast<PyTypeObject*>(type.ptr())) != 0;
}

inline bool is_tensor(PyObject* object) {
  return is_subtype(object, THPVariableClass);
}

// Where an object keeps its dict, which is the same place for life; null where it has none.
inline PyObject** place_of_dict(PyObject* object) {
  PyObject** place = _PyObject_GetDictPtr(object);
  return place != nullptr && *place != nullptr && PyDict_Check(*place) ? place : nullptr;
}

inline std::string of_module(const std::string& path) {
  return path.empty() ? "of the model" : "of module '" + path + "'";
}

inline std::string joined(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

inline PyObject* find(PyObject* dict, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(dict, key);
  if (value == nullptr) PyErr_Clear();  // from keys of the user's own: as good as not there
  return value;
}

}  // namespace torchpool
