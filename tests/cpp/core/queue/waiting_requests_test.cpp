#include "core/queue/waiting_requests.h"

#include <algorithm>
#include <random>
#include <tuple>

#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const TimePoint kStart = TimePoint{} + std::chrono::hours(1);

// One request a millisecond, as a queue numbers them.
class WaitingRequestsTest : public ::testing::Test {
 protected:
  std::shared_ptr<TestRequest> push(const Spec& spec = {}) {
    auto request = make_request(spec, next_);
    request->info.arrival = kStart + milliseconds(next_);
    request->info.number = static_cast<std::uint64_t>(++next_);
    waiting_.push(request);
    return request;
  }
  std::vector<int> first(std::size_t most = 100) const {
    std::vector<Request*> window{nullptr};  // to be cleared
    waiting_.first(most, window);
    std::vector<int> ids;
    for (const Request* request : window) ids.push_back(static_cast<const TestRequest*>(request)->id);
    return ids;
  }
  int front() const { return static_cast<const TestRequest*>(waiting_.front())->id; }

  WaitingRequests waiting_;
  int next_ = 0;
};

TEST_F(WaitingRequestsTest, IsEmptyAtFirst) {
  EXPECT_TRUE(waiting_.empty());
  EXPECT_EQ(waiting_.front(), nullptr);
  EXPECT_EQ(waiting_.front_of_list(), nullptr);
  EXPECT_EQ(waiting_.oldest_arrival(), kNever);
  EXPECT_EQ(waiting_.first_due(), kNever);
  EXPECT_EQ(first(), std::vector<int>{});
  EXPECT_EQ(waiting_.remove(*make_request()), nullptr);
}

TEST_F(WaitingRequestsTest, HigherPriorityGoesFirst) {
  for (const int priority : {0, 2, 1, 2, -1}) push({.priority = priority});
  EXPECT_EQ(first(), (std::vector{1, 3}));  // of one priority only: others share no batch with them
  EXPECT_EQ(front(), 1);
}

TEST_F(WaitingRequestsTest, EarliestDeadlineSeeds) {
  push();
  push({.deadline = kStart + milliseconds(500)});
  push({.deadline = kStart + milliseconds(200)});
  push();
  EXPECT_EQ(first(), (std::vector{2, 1, 0, 3}));
  EXPECT_EQ(first(3), (std::vector{2, 1, 0}));
  EXPECT_EQ(front(), 2);
  EXPECT_EQ(waiting_.first_due(), kStart + milliseconds(200));
}

TEST_F(WaitingRequestsTest, PriorityGoesBeforeDeadline) {
  push({.deadline = kStart + milliseconds(5)});
  push({.priority = 1});
  EXPECT_EQ(first(), (std::vector{1}));
  EXPECT_EQ(waiting_.first_due(), kStart + milliseconds(5));  // whatever its priority
}

TEST_F(WaitingRequestsTest, WithoutADeadlineItIsDueAfterItsPatience) {
  push();
  push({.deadline = kStart + kPatience + milliseconds(1)});
  EXPECT_EQ(first(), (std::vector{0, 1}));
  EXPECT_EQ(front(), 0);
  push({.deadline = kStart + kPatience - milliseconds(1)});
  EXPECT_EQ(first(), (std::vector{2, 0, 1}));
  EXPECT_EQ(front(), 2);
}

TEST_F(WaitingRequestsTest, ADistantDeadlineIsDueAfterItsPatienceToo) {
  push({.deadline = kStart + std::chrono::hours(5)});
  push();
  push({.deadline = kStart + std::chrono::hours(2)});
  EXPECT_EQ(first(), (std::vector{0, 1, 2}));
  EXPECT_EQ(due(waiting_.front()->info), kStart + kPatience);
}

TEST_F(WaitingRequestsTest, EqualDeadlinesGoInOrderOfArrival) {
  for (int i = 0; i < 3; ++i) push({.deadline = kStart + milliseconds(50)});
  EXPECT_EQ(first(), (std::vector{0, 1, 2}));
}

TEST_F(WaitingRequestsTest, RemovesOnlyWhatIsThere) {
  const auto listed = push();
  const auto timed = push({.deadline = kStart + seconds(5)});
  const auto twin = make_request({.deadline = kStart + seconds(5)});  // as to its place, but another
  twin->info.arrival = timed->info.arrival;
  twin->info.number = timed->info.number;
  EXPECT_EQ(waiting_.remove(*twin), nullptr);
  EXPECT_EQ(waiting_.remove(*make_request({.priority = 7})), nullptr);
  EXPECT_EQ(waiting_.size(), 2u);
  EXPECT_EQ(waiting_.remove(*timed), timed);
  EXPECT_EQ(waiting_.remove(*timed), nullptr);
  EXPECT_EQ(waiting_.remove(*listed), listed);
  EXPECT_EQ(waiting_.remove(*listed), nullptr);
  EXPECT_TRUE(waiting_.empty());
}

TEST_F(WaitingRequestsTest, KnowsTheOldestOfAllPriorities) {
  const auto oldest = push({.priority = -1});
  push({.priority = 3});
  const auto timed = push({.deadline = kStart + seconds(2)});
  EXPECT_EQ(waiting_.oldest_arrival(), kStart);
  waiting_.remove(*oldest);
  EXPECT_EQ(waiting_.oldest_arrival(), kStart + milliseconds(1));
}

TEST_F(WaitingRequestsTest, AListIsWalkedOnlyWhereItIsTheOrderOfAll) {
  const auto a = push();
  push();
  EXPECT_EQ(waiting_.front_of_list(), a.get());
  const auto timed = push({.deadline = kStart + seconds(2)});
  EXPECT_EQ(waiting_.front_of_list(), nullptr);
  waiting_.remove(*timed);
  EXPECT_EQ(waiting_.front_of_list(), a.get());
  const auto urgent = push({.priority = 1});
  EXPECT_EQ(waiting_.front_of_list(), nullptr);
  waiting_.remove(*urgent);
  EXPECT_EQ(waiting_.front_of_list(), a.get());
}

TEST_F(WaitingRequestsTest, AQueueThatRanEmptyTakesAnotherPriority) {
  waiting_.remove(*push());
  const auto urgent = push({.priority = 5});
  EXPECT_EQ(waiting_.front_of_list(), urgent.get());
  EXPECT_EQ(first(), (std::vector{1}));
}

// Against a vector that is sorted by what the order says.
TEST_F(WaitingRequestsTest, AgreesWithAPlainSortWhateverComesAndGoes) {
  std::mt19937 random(3);
  std::vector<std::shared_ptr<TestRequest>> model;
  const auto place = [](const std::shared_ptr<TestRequest>& request) {
    const RequestInfo& info = request->info;
    const TimePoint due = std::min(info.deadline, info.arrival + seconds(1));
    return std::tuple(-info.priority, due, info.number);
  };
  for (int step = 0; step < 4'000; ++step) {
    const bool fills = step / 500 % 2 == 0;
    if (model.empty() || random() % 10 < (fills ? 7u : 3u)) {
      Spec spec;
      spec.priority = static_cast<int>(random() % 3);
      if (random() % 2 == 0) spec.deadline = kStart + milliseconds(next_ + 1 + static_cast<int>(random() % 2'000));
      model.push_back(push(spec));
    } else {
      const auto gone = model.begin() + static_cast<std::ptrdiff_t>(random() % model.size());
      ASSERT_EQ(waiting_.remove(**gone), *gone);
      model.erase(gone);
    }
    ASSERT_EQ(waiting_.size(), model.size());
    if (step % 7 != 0 || model.empty()) continue;
    std::sort(model.begin(), model.end(), [&](const auto& a, const auto& b) { return place(a) < place(b); });
    std::vector<int> expected;
    for (const auto& request : model) {
      if (request->info.priority == model[0]->info.priority && expected.size() < 40) expected.push_back(request->id);
    }
    ASSERT_EQ(first(40), expected);
    ASSERT_EQ(front(), expected[0]);
    TimePoint due_first = kNever;
    for (const auto& request : model) {
      if (request->info.deadline != kNever) due_first = std::min(due_first, due(request->info));
    }
    ASSERT_EQ(waiting_.first_due(), due_first);
  }
}

}  // namespace
}  // namespace torchpool::testing
