#include "core/sync/thread.h"

#include "core/queue/deadline_timer.h"
#include "core/schedule/runtime.h"
#include "core/schedule/thread_group.h"
#include "core/sync/error.h"
#include "core/sync/no_threads.h"
#include "core/test_support.h"

namespace torchpool::testing {
namespace {

TEST(ThreadTest, OneThatCannotStartIsAnErrorThatSaysWhatToDo) {
  const NoThreads none;
  try {
    start_thread([] {}).join();
    FAIL() << "must throw";
  } catch (const NoThread& error) {
    EXPECT_NE(std::string(error.what()).find("ulimit -u"), std::string::npos) << error.what();
  }
}

TEST(ThreadTest, AGroupStartsAllOrNone) {
  std::atomic<int> ran{0};
  {
    const NoThreads none;
    EXPECT_THROW(ThreadGroup(2, {.start = {}, .body = [&](int) { ++ran; }, .stop = {}}), NoThread);
  }
  ThreadGroup(2, {.start = {}, .body = [&](int) { ++ran; }, .stop = {}}).join();
  EXPECT_EQ(ran, 2);
}

TEST(ThreadTest, ALaneThatCouldNotStartStartsWithTheNextChannel) {
  Runtime runtime(with_workers(2));
  TestHandler handler;
  {
    const NoThreads none;
    EXPECT_THROW(runtime.open(with_rows(1), handler, nullptr), NoThread);
  }
  const auto channel = runtime.open(with_rows(1), handler, nullptr);
  const auto request = make_request();
  channel->submit(request, Admission::kBlock, kNever);
  wait(*request);
}

TEST(ThreadTest, ATimerThatCannotStartSaysSoBeforeItWatches) {
  DeadlineTimer timer(Clock::steady());
  const auto request = make_request({.deadline = Clock::steady().now()});
  {
    const NoThreads none;
    EXPECT_THROW(timer.start(), NoThread);
    timer.watch(request);  // throws nothing, whatever came before
  }
  request->mark_queued(nullptr);
  timer.start();
  wait(*request);
  EXPECT_EQ(request->state(), RequestState::kExpired);
}

}  // namespace
}  // namespace torchpool::testing
