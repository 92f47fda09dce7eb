#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::seconds;

class PauseTest : public ::testing::Test {
 protected:
  std::shared_ptr<TestRequest> submitted() {
    auto request = make_request();
    channel_->submit(request, Admission::kBlock, kNever);
    return request;
  }
  ManualClock clock_;
  Gate gate_;
  TestHandler handler_{[this](const Batch& batch, WorkerContext&) {
    gate_.enter();
    succeed_all(batch);
    return Step::done();
  }};
  Runtime runtime_{with_workers(2, &clock_)};
  std::shared_ptr<Channel> channel_ = runtime_.open(with_rows(1), handler_, nullptr);
};

TEST_F(PauseTest, WaitsForWhatRuns) {
  const auto running = submitted();
  gate_.await(1);
  std::thread pausing([&] { EXPECT_TRUE(runtime_.pause(kNever)); });
  gate_.release();
  pausing.join();
  EXPECT_TRUE(running->done());
  runtime_.resume();
}

TEST_F(PauseTest, DoesNotWaitForLongerThanItIsTold) {
  const auto running = submitted();
  gate_.await(1);
  EXPECT_FALSE(runtime_.pause(clock_.now()));
  runtime_.resume();
  gate_.release();
  wait(*running);
}

TEST_F(PauseTest, WhatIsSubmittedMeanwhileRunsAfterwards) {
  gate_.release();
  EXPECT_TRUE(runtime_.pause(kNever));
  const auto first = submitted();
  const auto second = submitted();
  EXPECT_FALSE(runtime_.try_inline(*channel_));
  EXPECT_EQ(gate_.entered(), 0);
  EXPECT_FALSE(first->done());
  runtime_.resume();
  wait(*first);
  wait(*second);
}

TEST_F(PauseTest, NestsAndEndsWithTheLast) {
  gate_.release();
  EXPECT_TRUE(runtime_.pause(kNever));
  EXPECT_TRUE(runtime_.pause(kNever));
  runtime_.resume();
  const auto request = submitted();
  EXPECT_FALSE(runtime_.try_inline(*channel_));
  EXPECT_FALSE(request->done());
  runtime_.resume();
  wait(*request);
}

TEST_F(PauseTest, WaitsForACallOnItsCallersThread) {
  gate_.release();
  InlineLease lease = runtime_.try_inline(*channel_);
  ASSERT_TRUE(lease);
  EXPECT_FALSE(runtime_.pause(clock_.now()));
  lease = InlineLease();
  EXPECT_TRUE(runtime_.pause(clock_.now()));
  runtime_.resume();
  runtime_.resume();
  wait(*submitted());
}

}  // namespace
}  // namespace torchpool::testing
