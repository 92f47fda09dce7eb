#include "core/queue/request.h"

#include "core/queue/request_list.h"
#include "core/sync/error.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

std::exception_ptr some_error() {
  return std::make_exception_ptr(std::runtime_error("broken"));
}

TEST(RequestTest, GoesTheStraightWay) {
  const auto stats = std::make_shared<ChannelStats>();
  const auto request = make_request();
  EXPECT_EQ(request->state(), RequestState::kCreated);
  EXPECT_TRUE(request->mark_queued(stats));
  EXPECT_TRUE(request->try_start());
  EXPECT_FALSE(request->done());
  EXPECT_TRUE(request->succeed());
  EXPECT_TRUE(request->done());
  EXPECT_EQ(request->error(), nullptr);
  EXPECT_EQ(request->state(), RequestState::kSucceeded);
  EXPECT_EQ(stats->accepted, 1u);
  EXPECT_EQ(stats->succeeded, 1u);
}

TEST(RequestTest, RefusesWaysThatAreNotLegal) {
  const auto stats = std::make_shared<ChannelStats>();
  const auto request = make_request();
  EXPECT_FALSE(request->try_start());
  EXPECT_FALSE(request->try_expire());
  EXPECT_FALSE(request->succeed());
  EXPECT_FALSE(request->fail(some_error()));
  EXPECT_TRUE(request->mark_queued(stats));
  EXPECT_FALSE(request->succeed());
  EXPECT_TRUE(request->try_start());
  EXPECT_FALSE(request->try_start());
  EXPECT_FALSE(request->try_cancel());
  EXPECT_TRUE(request->fail(some_error()));
  EXPECT_FALSE(request->fail(some_error()));
  EXPECT_FALSE(request->try_expire());
  EXPECT_EQ(stats->accepted, 1u);
  EXPECT_EQ(stats->resolved(), 1u);
}

TEST(RequestTest, IsCancelledBeforeItIsQueuedToo) {
  const auto stats = std::make_shared<ChannelStats>();
  const auto request = make_request();
  EXPECT_TRUE(request->try_cancel());
  EXPECT_TRUE(failed_with<Cancelled>(*request));
  EXPECT_FALSE(request->mark_queued(stats));
  EXPECT_EQ(stats->accepted, 1u);
  EXPECT_EQ(stats->cancelled, 1u);
}

TEST(RequestTest, TellsNobodyWhenItIsWithdrawn) {
  const auto request = make_request();
  EXPECT_TRUE(request->try_withdraw());
  EXPECT_FALSE(request->done());
  EXPECT_FALSE(request->try_cancel());
  const auto queued = make_request();
  queued->mark_queued(nullptr);
  EXPECT_FALSE(queued->try_withdraw());
  EXPECT_TRUE(queued->try_cancel());
}

TEST(RequestTest, EachEndHasItsErrorAndItsCounter) {
  const auto stats = std::make_shared<ChannelStats>();
  const auto cancelled = make_request();
  cancelled->mark_queued(stats);
  EXPECT_TRUE(cancelled->try_cancel());
  EXPECT_TRUE(failed_with<Cancelled>(*cancelled));

  const auto expired = make_request();
  expired->mark_queued(stats);
  EXPECT_TRUE(expired->try_expire());
  EXPECT_TRUE(failed_with<DeadlineExceeded>(*expired));

  const auto failed = make_request();
  failed->mark_queued(stats);
  EXPECT_TRUE(failed->fail(some_error()));
  EXPECT_TRUE(failed_with<std::runtime_error>(*failed));

  EXPECT_EQ(stats->cancelled, 1u);
  EXPECT_EQ(stats->expired, 1u);
  EXPECT_EQ(stats->failed, 1u);
  EXPECT_EQ(stats->accepted, stats->resolved());
}

TEST(RequestTest, ALateResultOfAnExpiredRequestIsDropped) {
  const auto request = make_request();
  request->mark_queued(std::make_shared<ChannelStats>());
  request->try_start();
  EXPECT_TRUE(request->try_expire());
  EXPECT_FALSE(request->succeed());
  EXPECT_FALSE(request->fail(some_error()));
  EXPECT_TRUE(failed_with<DeadlineExceeded>(*request));
}

TEST(RequestTest, NamesItsStates) {
  EXPECT_STREQ(to_string(RequestState::kQueued), "queued");
  EXPECT_STREQ(to_string(RequestState::kExpired), "expired");
}

TEST(RequestTest, CancelStartAndExpireRaceToOneWinner) {
  const auto stats = std::make_shared<ChannelStats>();
  std::atomic<int> resolutions{0};
  constexpr int kRequests = 3000;
  std::vector<std::shared_ptr<TestRequest>> requests;
  for (int i = 0; i < kRequests; ++i) {
    requests.push_back(std::make_shared<TestRequest>(RequestInfo{}, &resolutions));
    requests.back()->mark_queued(stats);
  }
  std::atomic<int> started{0};
  std::atomic<int> won{0};
  run_threads(3, [&](int thread) {
    for (const auto& request : requests) {
      if (thread == 0 && request->try_start()) {
        ++started;
        if (request->succeed()) ++won;
      }
      if (thread == 1 && request->try_cancel()) ++won;
      if (thread == 2 && request->try_expire()) ++won;
    }
  });
  EXPECT_EQ(won, kRequests);
  EXPECT_EQ(resolutions, kRequests);
  EXPECT_EQ(stats->resolved(), static_cast<std::uint64_t>(kRequests));
  EXPECT_LE(stats->succeeded, static_cast<std::uint64_t>(started.load()));
  for (const auto& request : requests) EXPECT_TRUE(request->done());
}

TEST(RequestListTest, RemovesFromAnywhereAndKeepsTheOrder) {
  RequestList list;
  std::vector<std::shared_ptr<TestRequest>> requests;
  for (int i = 0; i < 5; ++i) {
    requests.push_back(make_request({}, i));
    list.push_back(requests.back());
  }
  const auto order = [&] {
    std::vector<int> ids;
    for (Request* r = list.front(); r != nullptr; r = RequestList::next(*r))
      ids.push_back(static_cast<TestRequest*>(r)->id);
    return ids;
  };
  EXPECT_EQ(list.remove(*requests[2]), requests[2]);
  EXPECT_EQ(list.remove(*requests[2]), nullptr);
  EXPECT_EQ(order(), (std::vector{0, 1, 3, 4}));
  list.remove(*requests[0]);
  list.remove(*requests[4]);
  EXPECT_EQ(order(), (std::vector{1, 3}));
  list.push_back(requests[0]);
  EXPECT_EQ(order(), (std::vector{1, 3, 0}));
  RequestList other;
  EXPECT_EQ(other.remove(*requests[0]), nullptr);
  EXPECT_EQ(list.size(), 3u);
}

TEST(RequestListTest, OwnsWhatIsLinkedAndFreesLongChains) {
  std::weak_ptr<Request> watched;
  {
    RequestList list;
    for (int i = 0; i < 100000; ++i) list.push_back(make_request());
    auto last = make_request();
    watched = last;
    list.push_back(std::move(last));
    EXPECT_FALSE(watched.expired());
  }
  EXPECT_TRUE(watched.expired());
}

}  // namespace
}  // namespace torchpool::testing
