// What Python code may do with an awaited call: the protocols of futures and of coroutines.
#pragma once

#include "bindings/awaited/awaited_call.h"

namespace torchpool {

struct AwaitedMethods {
  PyMethodDef* methods;
  PyGetSetDef* attributes;
  PyObject* (*await)(PyObject* self);
  PyObject* (*next)(PyObject* self);
  PySendResult (*send)(PyObject* self, PyObject* value, PyObject** sent);
};

// Of the type; needs the interpreter's lock.
const AwaitedMethods& awaited_methods();
// Hands its further callbacks to its loop; false with an error set.
bool call_more_soon(AwaitedCall& call);

}  // namespace torchpool
