// What the other threads of this process do, as the system sees it.
#pragma once

namespace torchpool {

// Whether a thread other than the calling one runs or is about to, instead of sleeping. False where the system does not
// tell. Takes some microseconds a thread.
bool others_run();

}  // namespace torchpool
