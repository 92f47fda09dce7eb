// torchpool.contract.contract.Contract as the predict layer's Contract.
#pragma once

#include <memory>

#include "bindings/interpreter/gil.h"
#include "predict/batch/contract.h"

namespace torchpool {

std::shared_ptr<const Contract> contract_from_python(const py::object& contract);

}  // namespace torchpool
