// The graph backend as seen from Python.
#pragma once

#include "bindings/interpreter/gil.h"

namespace torchpool {

void register_graph(py::module_& module);

}  // namespace torchpool
