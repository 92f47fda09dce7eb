// What a worker's thread does.
#pragma once

#include "core/schedule/runtime.h"
#include "core/schedule/scheduler.h"

namespace torchpool {

// Serves the slot's lane until the scheduler closes.
void run_worker(Scheduler& scheduler, WorkerSlot& slot, const LaneHooks& hooks);

// The scheduler whose worker this thread is, or null.
const Scheduler* scheduler_of_this_thread() noexcept;

}  // namespace torchpool
