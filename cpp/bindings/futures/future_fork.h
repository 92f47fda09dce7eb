// Futures in a forked child.
#pragma once

#include "bindings/futures/future_object.h"

namespace torchpool {

// The task or call of this future belongs to the parent's threads.
void fail_after_fork(FutureFields& task, const py::object& make_exception);

}  // namespace torchpool
