// The way into an accelerated module: every call of it that comes from outside is looked at once.
#pragma once

#include "bindings/interpreter/gil.h"

namespace torchpool {

// Note [The way into a module]
// An accelerated module has a class of its own, whose __call__ and forward come by an `_core.Entrance`. That one calls
// the module's predictor, or passes the call on to the method that the class had before:
//  - on a thread that runs the module for a predictor (inside.h): then the call is the module's own
//  - where the module itself is to answer (passing.h)
//  - in forward, where __call__ has just passed it on: a call is looked at once
// The module owns its class, the class the entrance, the entrance the predictor. None of these holds the module, but
// what the predictor learns from lies around it (see twin.py), so the cycle collector has to see all of it.
void register_entrance(py::module_& module);

}  // namespace torchpool
