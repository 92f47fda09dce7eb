#include "core/schedule/runtime.h"
#include "core/sync/error.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

TEST(InlineLeaseTest, HasAllCoresAndExcludesWorkersUntilItIsGivenBack) {
  Runtime runtime(with_workers(2));
  Log<int> order;
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    order.add(1);
    succeed_all(batch);
    return Step::done();
  });
  const auto channel = runtime.open(with_rows(8), handler, nullptr);
  const auto request = make_request();
  {
    const InlineLease lease = runtime.try_inline(*channel);
    ASSERT_TRUE(lease);
    EXPECT_TRUE(InlineLease::held_by_this_thread());
    EXPECT_EQ(channel->running(), 1);
    channel->submit(request, Admission::kBlock, kNever);
    EXPECT_FALSE(channel->wait_drained(TimePoint{}));
    order.add(0);
  }
  EXPECT_FALSE(InlineLease::held_by_this_thread());
  wait(*request);
  EXPECT_EQ(order.values(), (std::vector{0, 1}));
  EXPECT_TRUE(channel->wait_drained(kNever));
}

TEST(InlineLeaseTest, WithoutItsCoresItKeepsItsPlaceOnly) {
  Runtime runtime(with_workers(2));
  TestHandler handler;
  ChannelOptions one_at_a_time = with_rows(8);
  one_at_a_time.max_running = 1;
  const auto channel = runtime.open(std::move(one_at_a_time), handler, nullptr);
  const auto other = runtime.open(with_rows(8), handler, nullptr);
  const auto own = make_request();
  const auto others = make_request();
  {
    InlineLease lease = runtime.try_inline(*channel);
    ASSERT_TRUE(lease);
    lease.give_back_cores();
    lease.give_back_cores();  // nothing is left to give back
    EXPECT_TRUE(InlineLease::held_by_this_thread());
    channel->submit(own, Admission::kBlock, kNever);
    other->submit(others, Admission::kBlock, kNever);
    wait(*others);
    EXPECT_FALSE(own->done());
    EXPECT_EQ(channel->running(), 1);
  }
  wait(*own);
  EXPECT_TRUE(channel->wait_drained(kNever));
  EXPECT_EQ(channel->running(), 0);
}

TEST(InlineLeaseTest, OnlyOneAtATime) {
  Runtime runtime(with_workers(2));
  TestHandler handler;
  const auto channel = runtime.open(with_rows(8), handler, nullptr);
  InlineLease first = runtime.try_inline(*channel);
  EXPECT_TRUE(first);
  EXPECT_FALSE(runtime.try_inline(*channel));
  InlineLease moved = std::move(first);
  EXPECT_TRUE(moved);
  EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): this is what is tested
  moved = InlineLease();
  EXPECT_TRUE(runtime.try_inline(*channel));
  EXPECT_FALSE(moved);
  EXPECT_EQ(channel->running(), 0);
}

TEST(InlineLeaseTest, AnyNumberOfTinyOnesAtATimeWithoutCores) {
  Runtime runtime(with_workers(2));
  TestHandler handler;
  const auto channel = runtime.open(with_rows(8), handler, nullptr);
  std::vector<InlineLease> leases;
  for (int i = 0; i < 5; ++i) {
    leases.push_back(runtime.try_inline(*channel, InlineKind::kTiny));
    ASSERT_TRUE(leases.back());
  }
  EXPECT_EQ(channel->running(), 5);
  EXPECT_FALSE(channel->wait_drained(TimePoint{}));
  // They keep nothing from workers, nor from a caller that wants all cores.
  const auto request = make_request();
  channel->submit(request, Admission::kBlock, kNever);
  wait(*request);
  leases.clear();
  EXPECT_TRUE(channel->wait_drained(kNever));
  EXPECT_EQ(channel->running(), 0);
}

TEST(InlineLeaseTest, TinyOnesQueueWhereSomethingRuns) {
  Runtime runtime(with_workers(2));
  Gate gate;
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    gate.enter();
    succeed_all(batch);
    return Step::done();
  });
  const auto busy = runtime.open(with_rows(8), handler, nullptr);
  const auto other = runtime.open(with_rows(8), handler, nullptr);
  {
    const InlineLease all = runtime.try_inline(*busy);
    ASSERT_TRUE(all);
    EXPECT_FALSE(runtime.try_inline(*other, InlineKind::kTiny));
  }
  EXPECT_TRUE(runtime.try_inline(*other, InlineKind::kTiny));
  busy->submit(make_request(), Admission::kBlock, kNever);
  gate.await(1);
  EXPECT_FALSE(runtime.try_inline(*other, InlineKind::kTiny));
  gate.release();
  busy->wait_drained(kNever);
}

TEST(InlineLeaseTest, TinyOnesOfManyThreadsAreWaitedFor) {
  Runtime runtime(with_workers(2));
  TestHandler handler;
  const auto channel = runtime.open(with_rows(8), handler, nullptr);
  std::atomic<int> granted{0};
  run_threads(4, [&](int) {
    for (int i = 0; i < 200; ++i) {
      const InlineLease lease = runtime.try_inline(*channel, InlineKind::kTiny);
      if (lease) ++granted;
    }
  });
  EXPECT_TRUE(channel->wait_drained(kNever));
  EXPECT_EQ(channel->running(), 0);
  EXPECT_EQ(granted, 800);  // nothing else is there
}

TEST(InlineLeaseTest, DeniedWhileAnythingRunsAnywhere) {
  Runtime runtime(with_workers(2));
  Gate gate;
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    gate.enter();
    succeed_all(batch);
    return Step::done();
  });
  const auto busy = runtime.open(with_rows(8), handler, nullptr);
  const auto other = runtime.open(with_rows(8), handler, nullptr);
  busy->submit(make_request(), Admission::kBlock, kNever);
  gate.await(1);
  EXPECT_FALSE(runtime.try_inline(*other));
  gate.release();
  busy->wait_drained(kNever);
  // The worker gives its cores back in the step that ends the batch's running.
  EXPECT_TRUE(runtime.try_inline(*other));
}

TEST(InlineLeaseTest, DeniedOnWorkersAndForClosedChannels) {
  Runtime runtime(with_workers(1));
  TestHandler simple;
  const auto channel = runtime.open(with_rows(8), simple, nullptr);
  std::atomic<bool> granted{false};
  TestHandler nesting([&](const Batch& batch, WorkerContext&) {
    granted = static_cast<bool>(runtime.try_inline(*channel));
    succeed_all(batch);
    return Step::done();
  });
  const auto outer = runtime.open(with_rows(8), nesting, nullptr);
  const auto request = make_request();
  outer->submit(request, Admission::kBlock, kNever);
  wait(*request);
  outer->wait_drained(kNever);
  EXPECT_FALSE(granted);
  channel->close(true);
  EXPECT_FALSE(runtime.try_inline(*channel));
  EXPECT_TRUE(runtime.try_inline(*outer));
  runtime.close();
  EXPECT_FALSE(runtime.try_inline(*outer));
}

TEST(InlineLeaseTest, ASuspendedBatchCountsAgainstMaxRunning) {
  Runtime runtime(with_workers(2));
  Event event;
  Gate stepped;
  stepped.release();
  TestHandler handler([&, first = true](const Batch& batch, WorkerContext&) mutable {
    if (std::exchange(first, false)) {
      stepped.enter();
      return Step::pending_on(event);
    }
    succeed_all(batch);
    return Step::done();
  });
  const auto channel = runtime.open(with_rows(1, 1), handler, nullptr);
  channel->submit(make_request(), Admission::kBlock, kNever);
  stepped.await(1);
  EXPECT_FALSE(runtime.try_inline(*channel));
  event.set();
  channel->wait_drained(kNever);
  EXPECT_TRUE(runtime.try_inline(*channel));
}

// Whoever holds the cores is alone: neither another lease nor a batch runs beside it.
TEST(InlineLeaseTest, LeasesAndBatchesExcludeEachOther) {
  Runtime runtime(with_workers(1));
  std::atomic<int> inside{0};
  std::atomic<int> overlaps{0};
  const auto run_alone = [&] {
    if (inside.fetch_add(1) != 0) ++overlaps;
    std::this_thread::yield();
    inside.fetch_sub(1);
  };
  TestHandler handler([&](const Batch& batch, WorkerContext&) {
    run_alone();
    succeed_all(batch);
    return Step::done();
  });
  const auto channel = runtime.open(with_rows(4), handler, nullptr);
  std::atomic<int> inlined{0};
  run_threads(4, [&](int) {
    for (int i = 0; i < 2000; ++i) {
      if (const InlineLease lease = runtime.try_inline(*channel)) {
        ++inlined;
        run_alone();
      } else {
        const auto request = make_request();
        channel->submit(request, Admission::kBlock, kNever);
        if (i % 3 == 0) wait(*request);
      }
    }
  });
  EXPECT_TRUE(channel->wait_drained(kNever));
  EXPECT_EQ(overlaps, 0);
}

}  // namespace
}  // namespace torchpool::testing
