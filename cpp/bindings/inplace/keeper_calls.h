// What an entrance asks its keeper, the Python side of an accelerated module.
#pragma once

#include "bindings/inplace/plain_call.h"

namespace torchpool {

// What the keeper answers; null, with the error set, where it raises one. `about` may be null.
PyObject* ask(Entrance* own, const char* method, PyObject* about);
// For the log only.
void tell(Entrance* own, const char* method, PyObject* about);
// Whether a call that only told what calls like it are is to have the bits of these. False with an error set where an
// interrupt came.
bool serves_first(Entrance* own);

}  // namespace torchpool
