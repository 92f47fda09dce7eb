// An update gate as Python threads pass it: the interpreter's lock is released while they wait.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "core/sync/update_gate.h"

namespace torchpool {

// Waits while an update holds the gate. Requires the interpreter's lock. Throws where a signal's handler raises, and a
// TimeoutError when `deadline` comes first.
GateEntry enter_gate(const std::shared_ptr<UpdateGate>& gate, TimePoint deadline = kNever);

void register_gates(pybind11::module_& module);

}  // namespace torchpool
