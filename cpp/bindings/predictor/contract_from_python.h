// torchpool.contract.contract.Contract as the predict layer's Contract.
#pragma once

#include <memory>

#include "bindings/interpreter/gil.h"
#include "predict/batch/contract.h"

namespace torchpool {

// `spec`: of its calls' results, a torchpool.call.tree.TreeSpec or None.
std::shared_ptr<Contract> contract_from_python(const py::object& contract, const py::object& spec);

}  // namespace torchpool
