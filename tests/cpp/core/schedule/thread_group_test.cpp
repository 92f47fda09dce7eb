#include "core/schedule/thread_pool.h"

#include <algorithm>

#include "core/test_support.h"

namespace torchpool::testing {
namespace {

TEST(ThreadPoolTest, EachThreadStartsRunsAndStops) {
  Log<std::string> log;
  {
    ThreadPool pool(1, {.start = [&](int i) { log.add("start " + std::to_string(i)); },
                        .body = [&](int i) { log.add("run " + std::to_string(i)); },
                        .stop = [&](int i) { log.add("stop " + std::to_string(i)); }});
    pool.join();
    pool.join();
  }
  EXPECT_EQ(log.values(), (std::vector<std::string>{"start 0", "run 0", "stop 0"}));
}

TEST(ThreadPoolTest, NothingRunsBeforeAllHaveStarted) {
  std::atomic<int> started{0};
  std::atomic<bool> early{false};
  ThreadPool pool(8,
                  {.start = [&](int) { ++started; }, .body = [&](int) { early = early || started != 8; }, .stop = {}});
  EXPECT_EQ(started, 8);
  pool.join();
  EXPECT_FALSE(early);
}

TEST(ThreadPoolTest, HooksAreOptional) {
  Gate gate;
  ThreadPool pool(2, {.start = {}, .body = [&](int) { gate.enter(); }, .stop = {}});
  gate.await(2);
  gate.release();
}

TEST(ThreadPoolTest, AFailedStartIsRolledBackAndThrown) {
  std::atomic<int> started{0};
  std::atomic<int> stopped{0};
  std::atomic<int> ran{0};
  const auto start = [&](int i) {
    if (i == 2) throw std::runtime_error("no memory for thread 2");
    ++started;
  };
  try {
    const ThreadPool pool(4, {.start = start, .body = [&](int) { ++ran; }, .stop = [&](int) { ++stopped; }});
    FAIL() << "must throw";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "no memory for thread 2");
  }
  EXPECT_EQ(ran, 0);
  EXPECT_EQ(started, 3);
  EXPECT_EQ(stopped, 3);
}

}  // namespace
}  // namespace torchpool::testing
