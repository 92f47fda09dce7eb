// The simulator of the scheduling policy, for benchmarks and tests.
#pragma once

#include "bindings/interpreter/gil.h"

namespace torchpool {

void register_simulator(py::module_& module);

}  // namespace torchpool
