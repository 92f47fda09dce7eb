// torchpool.capture.lower.Lowered as a program of the graph backend.
#pragma once

#include <memory>

#include "bindings/interpreter/gil.h"
#include "predict/graph/program.h"

namespace torchpool {

// Raises ValueError that names the instruction for an operator that is not known or an argument that does not fit it.
std::shared_ptr<const graph::Program> program_from_python(const py::object& lowered);

}  // namespace torchpool
