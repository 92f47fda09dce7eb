// How much processor time was used.
#pragma once

#include "core/sync/clock.h"

namespace torchpool {

// By the calling thread. A system call of 0.2 to 0.5 us.
Duration thread_time() noexcept;
// By all threads of the process.
Duration process_time() noexcept;

}  // namespace torchpool
