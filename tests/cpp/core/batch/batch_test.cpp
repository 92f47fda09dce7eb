#include "core/batch/batch.h"

#include "core/sync/error.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

std::vector<RequestPtr> started(int count, std::int64_t rows = 1) {
  std::vector<RequestPtr> requests;
  for (int i = 0; i < count; ++i) {
    requests.push_back(make_request({.rows = rows}, i));
    requests.back()->mark_queued(std::make_shared<ChannelStats>());
    requests.back()->try_start();
  }
  return requests;
}

TEST(BatchTest, AddsUpRows) {
  const Batch batch(started(3, 2));
  EXPECT_EQ(batch.size(), 3u);
  EXPECT_EQ(batch.rows(), 6);
  EXPECT_FALSE(batch.empty());
  succeed_all(batch);
}

TEST(BatchTest, CostsByTheLongestRowOrByTheSumWherePaddingIsFree) {
  for (const int free : {0, 1, 2}) {  // how many of two
    auto requests = started(2);
    for (int i = 0; i < 2; ++i) {
      RequestInfo& info = requests[static_cast<std::size_t>(i)]->info;
      info.extent = i == 0 ? 10 : 101;
      info.padding_is_free = i < free;
    }
    const Batch batch(requests);
    EXPECT_EQ(batch.cost_size().items, 111);
    EXPECT_EQ(batch.cost_size().length, free == 2 ? 56 : 101);  // half of 111, rounded up
    succeed_all(batch);
  }
}

TEST(BatchTest, AbandonsWhatNobodyResolved) {
  const auto requests = started(2);
  {
    const Batch batch(requests);
    requests[0]->succeed();
  }
  EXPECT_EQ(requests[0]->state(), RequestState::kSucceeded);
  EXPECT_TRUE(failed_with<Abandoned>(*requests[1]));
}

TEST(BatchTest, AMovedFromBatchHasNoDuty) {
  const auto requests = started(1);
  Batch outer;
  {
    Batch inner(requests);
    outer = std::move(inner);
    EXPECT_EQ(inner.rows(), 0);  // NOLINT(bugprone-use-after-move): this is what is tested
  }
  EXPECT_FALSE(requests[0]->done());
  EXPECT_EQ(outer.rows(), 1);
}

TEST(BatchTest, AMovedOverBatchIsAbandoned) {
  const auto first = started(1);
  const auto second = started(1);
  Batch batch(first);
  batch = Batch(second);
  EXPECT_TRUE(failed_with<Abandoned>(*first[0]));
  EXPECT_FALSE(second[0]->done());
}

TEST(BatchRescueTest, RequestsOfAnUnwoundBatchFailWithTheException) {
  const auto requests = started(2);
  {
    BatchRescue rescue;
    try {
      const Batch batch(requests);
      throw std::runtime_error("no task");
    } catch (...) {
      rescue.fail_all(std::current_exception());
    }
  }
  EXPECT_TRUE(failed_with<std::runtime_error>(*requests[0]));
  EXPECT_FALSE(failed_with<Abandoned>(*requests[1]));
}

TEST(BatchRescueTest, AnExceptionThatWasSwallowedMeansAbandoned) {
  const auto requests = started(1);
  {
    BatchRescue rescue;
    try {
      const Batch batch(requests);
      throw std::runtime_error("swallowed");
    } catch (const std::runtime_error&) {
    }
    EXPECT_FALSE(requests[0]->done());
  }
  EXPECT_TRUE(failed_with<Abandoned>(*requests[0]));
}

TEST(BatchRescueTest, ABatchDroppedWithoutAnExceptionIsNotRescued) {
  const auto requests = started(1);
  BatchRescue rescue;
  {
    const Batch batch(requests);
  }
  EXPECT_TRUE(failed_with<Abandoned>(*requests[0]));
}

}  // namespace
}  // namespace torchpool::testing
