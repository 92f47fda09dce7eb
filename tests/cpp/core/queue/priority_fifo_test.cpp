#include "core/queue/priority_fifo.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <vector>

namespace torchpool {
namespace {

struct Task : FifoLinks<Task> {
  explicit Task(int which) : number(which) {}
  int number;
};

class PriorityFifoTest : public ::testing::Test {
 protected:
  Task& push(std::int32_t priority) {
    tasks_.emplace_back(static_cast<int>(tasks_.size()));
    fifo_.push(tasks_.back(), priority);
    return tasks_.back();
  }
  std::vector<int> pop_all() {
    std::vector<int> numbers;
    while (const Task* task = fifo_.pop()) numbers.push_back(task->number);
    return numbers;
  }

  std::deque<Task> tasks_;
  PriorityFifo<Task> fifo_;
};

TEST_F(PriorityFifoTest, GivesWhatCameFirst) {
  for (int i = 0; i < 4; ++i) push(0);
  EXPECT_EQ(pop_all(), (std::vector<int>{0, 1, 2, 3}));
}

TEST_F(PriorityFifoTest, GivesTheHighestPriorityFirstAndWithinItWhatCameFirst) {
  for (const int priority : {0, 5, -3, 5, 0}) push(priority);
  EXPECT_EQ(pop_all(), (std::vector<int>{1, 3, 0, 4, 2}));
}

TEST_F(PriorityFifoTest, KnowsExtremePriorities) {
  for (const std::int32_t priority : {INT32_MIN, INT32_MAX, 0}) push(priority);
  EXPECT_EQ(pop_all(), (std::vector<int>{1, 2, 0}));
}

TEST_F(PriorityFifoTest, HasNothingWhenEmpty) {
  EXPECT_TRUE(fifo_.empty());
  EXPECT_EQ(fifo_.pop(), nullptr);
  push(1);
  EXPECT_EQ(fifo_.size(), 1U);
  fifo_.pop();
  EXPECT_EQ(fifo_.pop(), nullptr);
  EXPECT_EQ(fifo_.size(), 0U);
}

TEST_F(PriorityFifoTest, ForgetsWhatIsErasedAtTheFrontInTheMiddleAndAtTheEnd) {
  std::vector<Task*> tasks;
  for (int i = 0; i < 5; ++i) tasks.push_back(&push(0));
  for (const std::size_t erased : {0U, 2U, 4U}) fifo_.erase(*tasks[erased]);
  EXPECT_FALSE(tasks[2]->queued);
  EXPECT_TRUE(tasks[1]->queued);
  EXPECT_EQ(pop_all(), (std::vector<int>{1, 3}));
}

TEST_F(PriorityFifoTest, TakesBackWhatWasPopped) {
  push(0);
  push(0);
  Task* first = fifo_.pop();
  fifo_.push(*first, 0);
  EXPECT_EQ(pop_all(), (std::vector<int>{1, 0}));
}

// Against a map of deques, with more priorities than are kept while empty.
TEST_F(PriorityFifoTest, AgreesWithAModelUnderAnyOperations) {
  std::mt19937 random(1);
  std::map<int, std::deque<int>, std::greater<>> model;
  const auto forget = [&model](int priority, int number) {
    auto& lane = model[priority];
    lane.erase(std::find(lane.begin(), lane.end(), number));
    if (lane.empty()) model.erase(priority);
  };
  std::vector<Task*> queued;
  for (int step = 0; step < 20'000; ++step) {
    const auto choice = random() % 4;
    if (choice < 2) {
      const int priority = static_cast<int>(random() % 40) - 20;
      Task& task = push(priority);
      queued.push_back(&task);
      model[priority].push_back(task.number);
    } else if (choice == 2) {
      Task* task = fifo_.pop();
      ASSERT_EQ(task == nullptr, model.empty());
      if (task == nullptr) continue;
      ASSERT_EQ(task->number, model.begin()->second.front());
      std::erase(queued, task);
      forget(task->priority, task->number);
    } else if (!queued.empty()) {
      Task* task = queued[random() % queued.size()];
      fifo_.erase(*task);
      std::erase(queued, task);
      forget(task->priority, task->number);
    }
    ASSERT_EQ(fifo_.size(), queued.size());
  }
}

}  // namespace
}  // namespace torchpool
