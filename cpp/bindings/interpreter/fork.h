// A copy of the process for work that must leave no trace in it.
#pragma once

#include <pybind11/pybind11.h>

namespace torchpool {

namespace py = pybind11;

void register_fork(py::module_& module);

}  // namespace torchpool
