#pragma once

#include "bindings/interpreter/gil.h"

namespace torchpool {

// Futures, pools and their workers.
void register_executor(py::module_& module);

}  // namespace torchpool
