// Which threads run a module for a predictor, so that what the module calls of itself goes to the module.
#pragma once

#include "bindings/interpreter/gil.h"

namespace torchpool {

// The calling thread is at a run of a module that some predictor has asked for: a batch, a call alone, a probe, a
// capture. Accelerated modules pass every call of such a thread on to themselves. Scopes may lie inside of one another.
class InsideScope {
 public:
  InsideScope() noexcept;
  ~InsideScope();
  InsideScope(const InsideScope&) = delete;
  InsideScope& operator=(const InsideScope&) = delete;
};

bool is_inside() noexcept;

// `_core.InnerCall(target, module)`: calls `target` inside, or `module`, a weak reference, for as long as that is
// alive.
void register_inside(py::module_& module);

}  // namespace torchpool
