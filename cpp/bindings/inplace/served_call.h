// Calls of an accelerated module that its predictor serves.
#pragma once

#include "bindings/inplace/plain_call.h"

namespace torchpool {

// Every function requires the interpreter's lock.

// The entrance has this predictor from now on, and its core where calls may go there at once; unless it has one, or its
// module is gone. False with the error set.
bool keep_predictor(Entrance* own, PyObject* predictor);
// As the predictor's __call__ does, past Python's part of it. `predictor` is the entrance's, which may lose it
// meanwhile. Null with the error set.
PyObject* call_predictor(const Entrance* own, PyObject* predictor, PyObject* args, PyObject* kwargs);

}  // namespace torchpool
