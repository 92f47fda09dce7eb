#include "core/schedule/thread_group.h"

#include <algorithm>

#include "core/test_support.h"

namespace torchpool::testing {
namespace {

TEST(ThreadGroupTest, EachThreadStartsRunsAndStops) {
  Log<std::string> log;
  {
    ThreadGroup group(1, {.start = [&](int i) { log.add("start " + std::to_string(i)); },
                          .body = [&](int i) { log.add("run " + std::to_string(i)); },
                          .stop = [&](int i) { log.add("stop " + std::to_string(i)); }});
    group.join();
    group.join();
  }
  EXPECT_EQ(log.values(), (std::vector<std::string>{"start 0", "run 0", "stop 0"}));
}

TEST(ThreadGroupTest, NothingRunsBeforeAllHaveStarted) {
  std::atomic<int> started{0};
  std::atomic<bool> early{false};
  ThreadGroup group(
      8, {.start = [&](int) { ++started; }, .body = [&](int) { early = early || started != 8; }, .stop = {}});
  EXPECT_EQ(started, 8);
  group.join();
  EXPECT_FALSE(early);
}

TEST(ThreadGroupTest, HooksAreOptional) {
  Gate gate;
  ThreadGroup group(2, {.start = {}, .body = [&](int) { gate.enter(); }, .stop = {}});
  gate.await(2);
  gate.release();
}

TEST(ThreadGroupTest, AFailedStartIsRolledBackAndThrown) {
  std::atomic<int> started{0};
  std::atomic<int> stopped{0};
  std::atomic<int> ran{0};
  const auto start = [&](int i) {
    if (i == 2) throw std::runtime_error("no memory for thread 2");
    ++started;
  };
  try {
    const ThreadGroup group(4, {.start = start, .body = [&](int) { ++ran; }, .stop = [&](int) { ++stopped; }});
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
