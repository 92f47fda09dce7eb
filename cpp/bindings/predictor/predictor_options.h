// What a predictor is made with, and what one call may ask for beside its arguments.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/queue/admission_queue.h"
#include "core/queue/request.h"
#include "core/sync/clock.h"
#include "core/sync/update_gate.h"

namespace torchpool {

struct BoundPredictorOptions {
  std::string name;
  QueueLimits limits;
  bool reject = false;            // a full queue refuses instead of blocking
  std::int64_t first_batch = 32;  // rows of a batch until more is known
  std::int64_t max_batch = 32;    // never more
  Duration max_delay{};           // longest that a batch is held for more calls
  double weight = 1.0;            // share of the runtime's time, beside other predictors
  double verify = 0;              // share of batches' time for comparing them with the same calls alone
  bool invariant = false;         // a call's bits depend neither on other calls nor on when it comes
  bool by_graph = false;          // a captured graph may serve calls; it must then see plain attributes change, too
  std::shared_ptr<UpdateGate> gate = std::make_shared<UpdateGate>();  // keeps its runs and updates of weights apart
};

struct CallOptions {
  std::int32_t priority = 0;
  Schedule schedule = Schedule::kGuided;
  std::int64_t chunk = 0;
  std::optional<TimePoint> deadline;  // on the runtime's clock, which runs from when the call came
};

// How submit() deals with a full queue.
enum class Full : std::uint8_t { kByPolicy, kBlock, kReject, kLineUp };

}  // namespace torchpool
