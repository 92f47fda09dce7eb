// Whether a module as it is now, on the calling thread as that is now, may be stood in for by a predictor.
#pragma once

#include <cstdint>

#include "bindings/interpreter/gil.h"

namespace torchpool {

// Why a call goes to the module itself.
enum class Passing : std::uint8_t {
  kNo,
  kTrainMode,
  kClass,      // the module's class, or its dict, is another one by now
  kForward,    // forward was set on the instance, and was called itself
  kCompiled,   // module.compile()
  kHooks,      // they want each call's own values, in its own thread
  kTraced,     // by torch.jit, torch.export, functorch, or under a mode
  kArguments,  // one that is no plain value
  kWritten,    // forward writes to its arguments
  kFirst,      // of its structure: it is looked at whether forward writes to its arguments
  kDual,       // a level of forward-mode differentiation is open
  kGradients,  // an input requires grad
  kWeights,    // grad mode is on, and a weight requires grad
  kResult,     // the first result of its structure required grad, by weights that are registered nowhere
  kNoPredictor,
  kErrors,  // of the predictor's own
  kMost,
};
const char* to_string(Passing why) noexcept;

// Every function requires the interpreter's lock, and runs no Python code.

// By the module's attributes. `forward`: forward was called itself.
Passing by_module(PyObject* dict, bool forward) noexcept;
// By the thread's state, gradients apart.
Passing by_thread() noexcept;
// Whether a parameter, a buffer or a tensor among the attributes of the module, or of one inside, requires grad; those
// in lists, tuples and dicts count. True where that cannot be told.
bool weights_require_grad(PyObject* dict);

void set_up_passing();  // at import

}  // namespace torchpool
