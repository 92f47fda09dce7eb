#include "lab/simulator/fixed_policy.h"

#include <algorithm>

namespace torchpool {

TimePoint FixedPolicy::hold_until(const QueueView& queue, TimePoint now) {
  return queue.waiting_rows >= std::min(rows_, queue.max_rows) ? now : queue.oldest + delay_;
}

}  // namespace torchpool
