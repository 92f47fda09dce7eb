#include "core/queue/deadline_timer.h"

#include "core/sync/error.h"
#include "core/sync/manual_clock.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::seconds;

// Counts the requests whose memory has not been given back: a weak reference keeps it.
template <typename T>
struct CountingAllocator {
  using value_type = T;
  explicit CountingAllocator(std::atomic<int>& count) : kept(&count) {}
  template <typename U>
  CountingAllocator(const CountingAllocator<U>& other) : kept(other.kept) {}
  T* allocate(std::size_t count) {
    ++*kept;
    return std::allocator<T>().allocate(count);
  }
  void deallocate(T* memory, std::size_t count) {
    std::allocator<T>().deallocate(memory, count);
    --*kept;
  }
  template <typename U>
  bool operator==(const CountingAllocator<U>& other) const {
    return kept == other.kept;
  }
  std::atomic<int>* kept;
};

class DeadlineTest : public ::testing::Test {
 protected:
  std::shared_ptr<TestRequest> counted(Duration deadline) {
    const Spec spec{.deadline = deadline == Duration::max() ? kNever : clock_.now() + deadline};
    return std::allocate_shared<TestRequest>(CountingAllocator<TestRequest>(kept_), make_info(spec));
  }
  std::shared_ptr<TestRequest> queued(Duration deadline) {
    auto request = make_request({.deadline = clock_.now() + deadline});
    queue_->push(request, Admission::kBlock, kNever);
    return request;
  }
  std::atomic<int> kept_{0};  // outlives all that counts by it
  ManualClock clock_;
  std::shared_ptr<ChannelStats> stats_ = std::make_shared<ChannelStats>();
  std::shared_ptr<AdmissionQueue> queue_ = std::make_shared<AdmissionQueue>(QueueLimits{}, clock_, stats_);
};

TEST_F(DeadlineTest, ExpiresInOrderAndFreesThePlaces) {
  DeadlineTimer timer(clock_);
  const auto late = queued(seconds(3));
  const auto early = queued(seconds(1));
  timer.watch(late);
  timer.watch(early);
  clock_.await_timed_waiters(1);
  clock_.advance(seconds(1));
  wait(*early);
  EXPECT_TRUE(failed_with<DeadlineExceeded>(*early));
  EXPECT_FALSE(late->done());
  EXPECT_EQ(queue_->waiting(), 1u);  // it had let go of the place before it told of the expiry
  clock_.await_timed_waiters(1);
  clock_.advance(seconds(2));
  wait(*late);
  timer.stop();
  EXPECT_EQ(queue_->waiting(), 0u);
  EXPECT_EQ(stats_->expired, 2u);
}

TEST_F(DeadlineTest, ExpiresWhatRunsToo) {
  DeadlineTimer timer(clock_);
  const auto request = queued(seconds(1));
  timer.watch(request);
  const Batch batch = queue_->take({.batch = {.max_rows = 1}}).batch;
  EXPECT_EQ(request->state(), RequestState::kRunning);
  clock_.await_timed_waiters(1);
  clock_.advance(seconds(1));
  wait(*request);
  EXPECT_FALSE(request->succeed());
}

TEST_F(DeadlineTest, IgnoresWhatHasNoDeadlineOrIsGone) {
  DeadlineTimer timer(clock_);
  timer.watch(counted(Duration::max()));
  EXPECT_EQ(kept_, 0);
  const auto queued_one = queued(seconds(1));  // first in the heap, so that the timer leaves the rest alone
  timer.watch(queued_one);
  auto request = counted(seconds(2));
  timer.watch(request);
  std::weak_ptr<Request> watched = request;
  request.reset();
  EXPECT_TRUE(watched.expired());
  watched.reset();
  EXPECT_EQ(kept_, 1);  // its entry
  timer.stop();
  EXPECT_EQ(kept_, 0);
  timer.watch(counted(seconds(1)));
  EXPECT_EQ(kept_, 0);
}

TEST_F(DeadlineTest, DoesNotWakeUpForWhatIsResolved) {
  DeadlineTimer timer(clock_);
  const auto first = queued(seconds(1));
  auto second = counted(seconds(2));
  const auto third = queued(seconds(3));
  timer.watch(first);
  timer.watch(second);
  timer.watch(third);
  EXPECT_TRUE(second->try_cancel());
  second.reset();
  clock_.await_timed_waiters(1);
  EXPECT_EQ(kept_, 1);
  clock_.advance(seconds(1));
  wait(*first);
  clock_.await_timed_waiters(1);  // for the third: the second is forgotten a second before its deadline
  EXPECT_EQ(kept_, 0);
  clock_.advance(seconds(2));
  wait(*third);
}

TEST_F(DeadlineTest, DropsRequestsThatAreGoneLongBeforeTheirDeadline) {
  DeadlineTimer timer(clock_);
  const auto first = queued(seconds(1));  // so that the timer's thread leaves the rest alone
  timer.watch(first);
  for (int i = 0; i < 20000; ++i) timer.watch(counted(seconds(60)));
  EXPECT_LE(kept_, 1024);
}

TEST_F(DeadlineTest, ExpiryMayRaceWithSuccessAndCancellation) {
  for (int round = 0; round < 100; ++round) {
    DeadlineTimer timer(clock_);
    std::vector<std::shared_ptr<TestRequest>> requests;
    for (int i = 0; i < 20; ++i) {
      requests.push_back(queued(seconds(1)));
      timer.watch(requests.back());
    }
    run_threads(3, [&](int thread) {
      if (thread == 0) clock_.advance(seconds(1));
      if (thread == 1) succeed_all(queue_->take({.batch = {.max_rows = 10}}).batch);
      if (thread == 2) {
        for (const auto& request : requests) {
          if (request->try_cancel()) queue_->forget(*request);
        }
      }
    });
    for (const auto& request : requests) wait(*request);
  }
  EXPECT_EQ(stats_->accepted, stats_->resolved());
}

TEST_F(DeadlineTest, ARuntimeExpiresWhileItsOnlyWorkerIsBusy) {
  Runtime runtime(with_workers(1, &clock_));
  Gate gate;
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    gate.enter();
    succeed_all(batch);
    return Step::done();
  });
  ChannelOptions options = with_rows(1);
  options.limits.rows = 1;
  const auto channel = runtime.open(options, handler, stats_);
  const auto running = make_request({.deadline = clock_.now() + seconds(1)});
  const auto waiting = make_request({.deadline = clock_.now() + seconds(1)});
  channel->submit(running, Admission::kBlock, kNever);
  runtime.watch_deadline(running);
  gate.await(1);
  channel->submit(waiting, Admission::kBlock, kNever);
  runtime.watch_deadline(waiting);
  clock_.await_timed_waiters(1);
  clock_.advance(seconds(1));
  wait(*running);
  wait(*waiting);
  EXPECT_TRUE(failed_with<DeadlineExceeded>(*running));
  EXPECT_TRUE(failed_with<DeadlineExceeded>(*waiting));
  const auto next = make_request();  // blocks until the expired one has given its place back
  channel->submit(next, Admission::kBlock, kNever);
  gate.release();
  wait(*next);
  EXPECT_TRUE(channel->wait_drained(kNever));
  EXPECT_EQ(stats_->expired, 2u);
}

}  // namespace
}  // namespace torchpool::testing
