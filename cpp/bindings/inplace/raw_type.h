// Types whose calls are too frequent for a binding's conversions, and which the cycle collector sees.
#pragma once

#include <cstring>

#include "bindings/interpreter/gil.h"

namespace torchpool {

template <int (*Clear)(PyObject*)>
void raw_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  Clear(self);
  type->tp_free(self);
  Py_DECREF(type);
}

// Adds a type; its full name is "torchpool._core.<name>". The type is kept for as long as the process lasts.
inline PyTypeObject* add_raw_type(py::module_& module, const char* full_name, std::size_t size, PyType_Slot* slots) {
  PyType_Spec spec{full_name, static_cast<int>(size), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
  PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  module.add_object(std::strrchr(full_name, '.') + 1, type);
  return reinterpret_cast<PyTypeObject*>(type);
}

}  // namespace torchpool
