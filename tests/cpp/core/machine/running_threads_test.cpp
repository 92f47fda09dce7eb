#include "core/machine/running_threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "core/sync/parker.h"

namespace torchpool {
namespace {

void await_sleep() {
  while (others_run()) std::this_thread::yield();
}

TEST(RunningThreads, AThreadThatSleepsDoesNotRun) {
  Parker parker;
  std::thread sleeper([&] { parker.park(); });
  await_sleep();
  parker.unpark();
  sleeper.join();
}

TEST(RunningThreads, AThreadThatComputesRuns) {
  await_sleep();
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop.load()) {
    }
  });
  EXPECT_TRUE(others_run());
  stop = true;
  busy.join();
  await_sleep();
}

}  // namespace
}  // namespace torchpool
