// Every C++ test program: GoogleTest, and a limit of time for each test. A test that hangs shows the stacks of all
// threads and ends the program, since nothing can end a thread.
#include <dirent.h>
#include <execinfo.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <string>
#include <thread>

namespace {

constexpr std::chrono::seconds kLimit(TORCHPOOL_TEST_TIMEOUT_S);
constexpr long kForOneStackNs = 200'000'000;  // a thread that takes no signals is passed over
constexpr int kShowStack = SIGUSR2;

sem_t stack_shown;  // the threads print one after the other

void show_stack(int /*signal*/) {
  void* frames[64];
  backtrace_symbols_fd(frames, backtrace(frames, 64), STDERR_FILENO);
  sem_post(&stack_shown);
}

void show_all_stacks() {
  void* frame = nullptr;
  backtrace(&frame, 1);  // loads libgcc now: a signal handler must not
  sem_init(&stack_shown, 0, 0);
  std::signal(kShowStack, show_stack);
  DIR* const tasks = opendir("/proc/self/task");
  if (tasks == nullptr) return;
  while (const dirent* task = readdir(tasks)) {
    const long id = std::strtol(task->d_name, nullptr, 10);
    if (id <= 0 || id == syscall(SYS_gettid)) continue;
    std::fprintf(stderr, "thread %ld:\n", id);
    syscall(SYS_tgkill, getpid(), id, kShowStack);
    timespec until{};
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += kForOneStackNs;
    until.tv_sec += until.tv_nsec / 1'000'000'000;
    until.tv_nsec %= 1'000'000'000;
    sem_timedwait(&stack_shown, &until);
  }
  closedir(tasks);
}

class TimeLimit : public ::testing::EmptyTestEventListener {
 public:
  TimeLimit() : watcher_([this] { watch(); }) {}
  ~TimeLimit() override {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    watcher_.join();
  }

  void OnTestStart(const testing::TestInfo& test) override {
    set(std::string(test.test_suite_name()) + "." + test.name());
  }
  void OnTestEnd(const testing::TestInfo& /*test*/) override { set({}); }

 private:
  void set(std::string name) {
    {
      const std::lock_guard lock(mutex_);
      name_ = std::move(name);
      ++turn_;
    }
    changed_.notify_all();
  }

  void watch() {
    std::unique_lock lock(mutex_);
    while (!ended_) {
      const int turn = turn_;
      const auto moved = [&] { return ended_ || turn_ != turn; };
      if (name_.empty()) {
        changed_.wait(lock, moved);
      } else if (!changed_.wait_for(lock, kLimit, moved)) {
        std::fprintf(stderr, "%s takes more than %d s. Stacks:\n", name_.c_str(), TORCHPOOL_TEST_TIMEOUT_S);
        show_all_stacks();
        std::abort();
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string name_;  // of the test that runs; empty between two
  int turn_ = 0;
  bool ended_ = false;
  std::thread watcher_;
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  testing::UnitTest::GetInstance()->listeners().Append(new TimeLimit);  // which GoogleTest deletes
  return RUN_ALL_TESTS();
}
