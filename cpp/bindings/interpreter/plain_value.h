// Values that are compared by what they are, not by which object they are.
#pragma once

#include <string>

#include "bindings/interpreter/gil.h"

namespace torchpool {

// Equal for certain: the same object, or equal numbers (to the bit), strings, None, devices, or tuples, lists and dicts
// of these. Runs no code of the values' own. Requires the interpreter's lock.
bool same_value(PyObject* one, PyObject* other);

// "1.0", "'relu'", "None"; "a Tensor" for what has no short text.
std::string value_text(PyObject* value);

// A dict's key as text: 'weight' without quotes, 5.
std::string key_text(PyObject* key);

}  // namespace torchpool
