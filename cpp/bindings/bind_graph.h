// The graph backend as seen from Python.
#pragma once

#include "bindings/gil.h"

namespace torchpool {

void register_graph(py::module_& module);

}  // namespace torchpool
