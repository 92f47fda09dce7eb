// Which Python exception stands for which of the core's.
#pragma once

#include <pybind11/pybind11.h>

#include "core/sync/error.h"

namespace torchpool {

// Sets the Python error. Requires the interpreter's lock.
void set_python_error(const Error& error);

void register_errors(pybind11::module_& module);

}  // namespace torchpool
