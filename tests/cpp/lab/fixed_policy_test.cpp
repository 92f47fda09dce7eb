#include "lab/simulator/fixed_policy.h"

#include <gtest/gtest.h>

namespace torchpool::testing {
namespace {

using std::chrono::milliseconds;

TEST(FixedPolicyTest, WaitsForItsRowsOrItsDelay) {
  FixedPolicy policy(8, milliseconds(5));
  const TimePoint start = TimePoint{} + std::chrono::hours(1);
  QueueView queue;
  queue.oldest = start;
  queue.waiting_rows = 7;
  EXPECT_EQ(policy.rows(queue).rows, 8);
  EXPECT_FALSE(policy.shares());
  EXPECT_EQ(policy.hold_until(queue, start + milliseconds(2)), start + milliseconds(5));
  queue.waiting_rows = 8;
  EXPECT_LE(policy.hold_until(queue, start + milliseconds(2)), start + milliseconds(2));
  queue.waiting_rows = 4;
  queue.max_rows = 4;  // more than that never runs together
  EXPECT_LE(policy.hold_until(queue, start + milliseconds(2)), start + milliseconds(2));
}

}  // namespace
}  // namespace torchpool::testing
