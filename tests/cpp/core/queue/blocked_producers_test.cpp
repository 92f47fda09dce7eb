#include "core/queue/admission_queue.h"
#include "core/sync/error.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::seconds;

// A queue of four rows, full from the start. Producers wait on the manual clock, which is how the tests see
// them block.
class BlockedProducersTest : public ::testing::Test {
 protected:
  BlockedProducersTest() {
    full_ = make_request({.rows = 4});
    queue_->push(full_, Admission::kBlock, kNever);
  }
  ~BlockedProducersTest() override {
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  // Starts a producer and returns once it blocks.
  std::shared_ptr<TestRequest> block(const Spec& spec, int id, TimePoint give_up = kNever) {
    auto request = make_request(spec, id);
    threads_.emplace_back([this, request, give_up] {
      try {
        ends_.add({request->id, queue_->push(request, Admission::kBlock, give_up) == PushResult::kAdmitted
                                    ? "admitted"
                                    : "timed out"});
      } catch (const Closed&) {
        ends_.add({request->id, "closed"});
      } catch (const DeadlineExceeded&) {
        ends_.add({request->id, "late"});
      }
    });
    clock_.await_waiters(threads_.size() - left_);
    return request;
  }
  void join(std::size_t producer) {
    threads_[producer].join();
    ++left_;
  }
  using Ends = std::vector<std::pair<int, std::string>>;

  ManualClock clock_;
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  std::shared_ptr<AdmissionQueue> queue_ = std::make_shared<AdmissionQueue>(QueueLimits{.rows = 4}, clock_, stats_);
  std::shared_ptr<TestRequest> full_;
  std::vector<std::thread> threads_;
  std::size_t left_ = 0;
  Log<std::pair<int, std::string>> ends_;
};

TEST_F(BlockedProducersTest, AFreedPlaceAdmitsExactlyThoseThatFitInOrder) {
  const auto a = block({.rows = 3}, 1);
  const auto b = block({.rows = 1}, 2);
  const auto c = block({.rows = 2}, 3);
  succeed_all(queue_->take({.batch = {.max_rows = 4}}).batch);
  join(0);
  join(1);
  EXPECT_EQ(a->state(), RequestState::kQueued);
  EXPECT_EQ(b->state(), RequestState::kQueued);
  EXPECT_EQ(c->state(), RequestState::kCreated);
  EXPECT_EQ(queue_->waiting_rows(), 4);
  EXPECT_EQ(ids_of(queue_->take({.batch = {.max_rows = 3}}).batch), (std::vector{1}));
  join(2);
  EXPECT_EQ(ids_of(queue_->take({.batch = {.max_rows = 4}}).batch), (std::vector{2, 3}));
}

TEST_F(BlockedProducersTest, ASmallOneDoesNotOvertakeALargeOne) {
  succeed_all(queue_->take({.batch = {.max_rows = 4}}).batch);
  queue_->push(make_request({.rows = 3}, 8), Admission::kReject, kNever);
  queue_->push(make_request({.rows = 1}, 9), Admission::kReject, kNever);
  block({.rows = 4}, 1);
  const auto small = block({.rows = 1}, 2);
  succeed_all(queue_->take({.batch = {.max_rows = 3}})
                  .batch);  // leaves one row waiting: the small one would fit, the large one not
  EXPECT_EQ(queue_->waiting_rows(), 1);
  EXPECT_EQ(small->state(), RequestState::kCreated);
  EXPECT_EQ(queue_->push(make_request(), Admission::kBlock, clock_.now()), PushResult::kTimedOut);
  queue_->close();
}

TEST_F(BlockedProducersTest, CancellationOfAWaitingOneAdmitsTheNext) {
  const auto a = block({.rows = 4}, 1);
  EXPECT_TRUE(full_->try_cancel());
  queue_->forget(*full_);
  join(0);
  EXPECT_EQ(a->state(), RequestState::kQueued);
}

TEST_F(BlockedProducersTest, GivesUpInTimeAndLetsTheNextOneIn) {
  succeed_all(queue_->take({.batch = {.max_rows = 4}}).batch);
  queue_->push(make_request({}, 8), Admission::kReject, kNever);  // one row waits
  const auto large = block({.rows = 4}, 1, clock_.now() + seconds(1));
  const auto small = block({.rows = 1}, 2);
  clock_.advance(seconds(1));
  join(0);
  join(1);
  EXPECT_EQ(large->state(), RequestState::kCreated);
  EXPECT_EQ(small->state(), RequestState::kQueued);
  EXPECT_EQ(stats_->accepted, 3u);
}

TEST_F(BlockedProducersTest, NoTimeToWaitTimesOutAtOnce) {
  EXPECT_EQ(queue_->push(make_request(), Admission::kBlock, clock_.now()), PushResult::kTimedOut);
}

TEST_F(BlockedProducersTest, ItsOwnDeadlineEndsTheWait) {
  const auto late = block({.deadline = clock_.now() + seconds(1)}, 1, clock_.now() + seconds(5));
  clock_.advance(seconds(1));
  join(0);
  EXPECT_EQ(ends_.values(), (Ends{{1, "late"}}));
  EXPECT_EQ(late->state(), RequestState::kCreated);
}

TEST_F(BlockedProducersTest, CloseWakesAll) {
  for (int i = 0; i < 4; ++i) block({}, i);
  queue_->close();
  for (std::size_t i = 0; i < 4; ++i) join(i);
  EXPECT_EQ(ends_.values().size(), 4u);
  for (const auto& [id, end] : ends_.values()) EXPECT_EQ(end, "closed") << id;
  EXPECT_EQ(stats_->accepted, 1u);
}

TEST_F(BlockedProducersTest, AdmissionTimeOutAndCloseRaceToOneEnd) {
  for (int round = 0; round < 200; ++round) {
    ManualClock clock;
    const auto stats = std::make_shared<ChannelStats>();
    AdmissionQueue queue({.rows = 1}, clock, stats);
    queue.push(make_request(), Admission::kBlock, kNever);
    std::atomic<int> ends{0};
    run_threads(6, [&](int thread) {
      if (thread == 0) clock.advance(seconds(1));
      if (thread == 1) static_cast<void>(queue.take({.batch = {.max_rows = 1}}));
      if (thread == 2) queue.close();
      if (thread < 3) return;
      try {
        queue.push(make_request(), Admission::kBlock, clock.now() + seconds(1));
        ++ends;
      } catch (const Closed&) {
        ++ends;
      }
    });
    EXPECT_EQ(ends, 3);
    queue.fail_waiting(std::make_exception_ptr(Closed("closed")));
    EXPECT_EQ(stats->accepted, stats->resolved());
  }
}

}  // namespace
}  // namespace torchpool::testing
