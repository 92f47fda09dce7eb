// torchpool.contract.Contract as the predict layer's Contract.
#pragma once

#include <memory>

#include "bindings/gil.h"
#include "predict/contract.h"

namespace torchpool {

std::shared_ptr<const Contract> contract_from_python(const py::object& contract);

}  // namespace torchpool
