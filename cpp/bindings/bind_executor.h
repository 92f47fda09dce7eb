#pragma once

#include "bindings/gil.h"

namespace torchpool {

// Futures, pools and their workers.
void register_executor(py::module_& module);

}  // namespace torchpool
