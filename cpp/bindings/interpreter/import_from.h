// What other modules of Python have, looked up once.
#pragma once

#include <pybind11/pybind11.h>

namespace torchpool {

// A reference that is kept for as long as the process lasts. Throws what the import raises.
inline PyObject* import_from(const char* module, const char* name) {
  return pybind11::object(pybind11::module_::import(module).attr(name)).release().ptr();
}

}  // namespace torchpool
