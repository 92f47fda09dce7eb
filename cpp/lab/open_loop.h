// Calls that arrive by a schedule, whatever becomes of those before: load as servers see it, from a native thread.
#pragma once

#include <optional>
#include <vector>

#include "bindings/predictor/measured_predictor.h"

namespace torchpool {

// Submits calls[i % len(calls)], each an (args, kwargs), at arrivals[i] seconds (increasing), from a native thread
// and without Python; waits for all. Of each: "latency" from its scheduled time (-1: rejected at once), how many
// seconds it was submitted late, and its "status": 0 succeeded, 1 expired, 2 failed, 3 rejected. `block`: waits for
// room, for a load that is as high as can be. Calls must be of kinds that share batches.
py::dict open_loop(MeasuredPredictor& predictor, const py::list& calls, const std::vector<double>& arrivals,
                   std::optional<double> deadline, int priority, bool block);

}  // namespace torchpool
