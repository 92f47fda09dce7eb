// Batches of a fixed size after a fixed delay, as dynamic batchers of model servers have them (Triton's
// max_queue_delay, Ray Serve's batch_wait_timeout_s): what learned sizes are compared with.
#pragma once

#include "core/batch/batch_policy.h"

namespace torchpool {

class FixedPolicy final : public BatchPolicy {
 public:
  FixedPolicy(std::int64_t rows, Duration delay) : rows_(rows), delay_(delay) {}
  RowLimit rows(const QueueView& /*queue*/) override { return {rows_, true}; }
  std::int64_t full_rows(const QueueView& /*queue*/) const noexcept override { return rows_; }
  bool shares() const noexcept override { return false; }
  TimePoint hold_until(const QueueView& queue, TimePoint now) override;

 private:
  std::int64_t rows_;
  Duration delay_;
};

}  // namespace torchpool
