// A call's form as a script takes it.
#pragma once

#include <vector>

#include "bindings/call/call_form.h"

namespace torchpool {

// Notes at each node what the schema has there and converts plain values, by torch's own rules (an int where a float
// is declared, a str for a device, ...). What cannot be converted is left for the schema's check to name. Requires the
// interpreter's lock.
void assign_script_types(std::vector<PyCallForm::Node>& nodes, const c10::FunctionSchema& schema);

}  // namespace torchpool
