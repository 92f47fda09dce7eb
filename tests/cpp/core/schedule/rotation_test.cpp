#include "core/schedule/rotation.h"

#include <algorithm>
#include <map>
#include <random>

#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

class RotationTest : public ::testing::Test {
 protected:
  FairSharePtr add(double weight = 1.0) { return add_to(rotation_, std::make_shared<FairShare>(weight)); }
  static FairSharePtr add_to(Rotation& rotation, FairSharePtr share) {
    Ready ready;
    ready.share = share;
    rotation.push(std::move(ready));
    return share;
  }
  // One that goes, runs so long and comes again.
  FairSharePtr step(Duration takes) {
    Ready ready = rotation_.take(nullptr, 1);
    FairSharePtr share = ready.share;
    Rotation::settle(*share, ready.charged, takes);
    add_to(rotation_, share);
    return share;
  }
  // The same, each with a cost of its own; what each used meanwhile.
  std::map<FairSharePtr, Duration> run(const std::map<FairSharePtr, Duration>& costs, int steps) {
    std::map<FairSharePtr, Duration> used;
    for (int i = 0; i < steps; ++i) {
      Ready ready = rotation_.take(nullptr, 1);
      const Duration takes = costs.at(ready.share);
      used[ready.share] += takes;
      Rotation::settle(*ready.share, ready.charged, takes);
      add_to(rotation_, ready.share);
    }
    return used;
  }

  std::shared_ptr<FairRounds> rounds_ = std::make_shared<FairRounds>();
  Rotation rotation_{rounds_};
};

double ratio(Duration a, Duration b) {
  return static_cast<double>(a.count()) / static_cast<double>(b.count());
}

TEST_F(RotationTest, EqualOnesTakeTurns) {
  const auto a = add();
  const auto b = add();
  const auto c = add();
  std::vector<FairSharePtr> order;
  for (int i = 0; i < 6; ++i) order.push_back(step(milliseconds(1)));
  EXPECT_EQ(order, (std::vector{a, b, c, a, b, c}));
}

TEST_F(RotationTest, TimeIsSharedByWeightWhateverAStepCosts) {
  const auto light = add(1);
  const auto medium = add(2);
  const auto heavy = add(4);
  const auto used = run({{light, milliseconds(3)}, {medium, microseconds(700)}, {heavy, microseconds(30)}}, 60'000);
  EXPECT_NEAR(ratio(used.at(medium), used.at(light)), 2, 0.1);
  EXPECT_NEAR(ratio(used.at(heavy), used.at(light)), 4, 0.2);
}

TEST_F(RotationTest, SmallAndLargeWeightsToo) {
  const auto least = add(0.001);
  const auto most = add(1000);
  const auto used = run({{least, microseconds(10)}, {most, milliseconds(1)}}, 100'000);
  ASSERT_TRUE(used.contains(least));
  EXPECT_LE(ratio(used.at(least), used.at(most)), 1e-4);  // a step at a time is coarse
}

// Four workers: what has been taken has not been paid yet when the next ones are.
TEST_F(RotationTest, WhatRunsIsChargedBeforeItEnds) {
  const auto slow = add();
  const auto quick = add();
  std::map<FairSharePtr, Duration> used;
  std::deque<Ready> running;
  for (int i = 0; i < 20'000; ++i) {
    Ready ready = rotation_.take(nullptr, 1);
    used[ready.share] += ready.share == slow ? milliseconds(4) : microseconds(100);
    add_to(rotation_, ready.share);
    running.push_back(std::move(ready));
    if (running.size() < 4) continue;
    const Ready ended = std::move(running.front());
    running.pop_front();
    Rotation::settle(*ended.share, ended.charged, ended.share == slow ? milliseconds(4) : microseconds(100));
  }
  EXPECT_NEAR(ratio(used.at(slow), used.at(quick)), 1, 0.05);
}

TEST_F(RotationTest, ANewcomerWaitsForOneStepOfEachOfTheOthersAtMost) {
  std::mt19937 random(9);
  std::map<FairSharePtr, Duration> costs;
  for (int i = 0; i < 5; ++i) costs[add()] = microseconds(20 + random() % 5'000);
  for (int round = 0; round < 200; ++round) {
    run(costs, 1 + static_cast<int>(random() % 50));
    const auto newcomer = add();
    std::map<FairSharePtr, int> before;
    for (;;) {
      Ready ready = rotation_.take(nullptr, 1);
      if (ready.share == newcomer) break;
      Rotation::settle(*ready.share, ready.charged, costs.at(ready.share));
      EXPECT_EQ(++before[ready.share], 1);
      add_to(rotation_, ready.share);
    }
  }
}

TEST_F(RotationTest, APauseEarnsNoMoreThanARound) {
  const auto busy = add();
  const auto other = std::make_shared<FairShare>();
  for (int i = 0; i < 1'000; ++i) step(milliseconds(1));
  add_to(rotation_, other);
  EXPECT_EQ(other->deficit, Rotation::kQuantum);
  const auto used = run({{busy, milliseconds(1)}, {other, milliseconds(1)}}, 20);
  EXPECT_LE(used.at(other), milliseconds(11));
}

// A predictor of small weight that has the workers to itself for days lets very many rounds pass.
TEST_F(RotationTest, WhoComesAfterAnyNumberOfRoundsHasOnesTime) {
  for (const double rounds : {1e9, 1e12, 1e15}) {
    rounds_->passed = rounds;
    EXPECT_EQ(add(1000)->deficit, 1000 * Rotation::kQuantum) << rounds;
  }
}

TEST_F(RotationTest, DebtsArePaidBeforeItGoesAgain) {
  const auto a = add();
  const auto b = add();
  EXPECT_EQ(step(milliseconds(100)), a);
  for (int i = 0; i < 99; ++i) EXPECT_EQ(step(milliseconds(1)), b) << i;
  EXPECT_GT(a->deficit, -milliseconds(3));
  const auto used = run({{a, milliseconds(1)}, {b, milliseconds(1)}}, 40);
  EXPECT_GE(used.at(a), milliseconds(19));
}

// Who owes and has no work is paid off by the time that the others use.
TEST_F(RotationTest, DebtsShrinkWhileThereIsNoWork) {
  const auto debtor = std::make_shared<FairShare>();
  const auto busy = add();
  add_to(rotation_, debtor);
  Ready ready = rotation_.take(debtor.get(), 2);
  ASSERT_EQ(ready.share, debtor);
  Rotation::settle(*debtor, ready.charged, milliseconds(50));
  for (int i = 0; i < 60; ++i) EXPECT_EQ(step(milliseconds(1)), busy);
  add_to(rotation_, debtor);
  EXPECT_GT(debtor->deficit, Duration::zero());
}

TEST_F(RotationTest, WarmOnesArePreferredAmongThoseThatAreTakenNow) {
  const auto a = add();
  const auto b = add();
  const auto c = add();
  const auto taken = [&](const FairSharePtr& warm, int takers) {
    Ready ready = rotation_.take(warm.get(), takers);
    const FairSharePtr share = ready.share;
    Rotation::refund(*share, ready.charged);
    rotation_.take_all();
    for (const auto& again : {a, b, c}) add_to(rotation_, again);
    return share;
  };
  EXPECT_EQ(taken(nullptr, 3), a);
  EXPECT_EQ(taken(a, 1), a);
  EXPECT_EQ(taken(b, 1), a);
  EXPECT_EQ(taken(b, 2), b);
  EXPECT_EQ(taken(c, 2), a);
  EXPECT_EQ(taken(c, 3), c);
  EXPECT_EQ(taken(b, 0), a);
  EXPECT_EQ(taken(b, -1), a);
}

TEST_F(RotationTest, WarmthDoesNotBeatADebt) {
  const auto a = add();
  const auto b = add();
  EXPECT_EQ(step(milliseconds(10)), a);
  EXPECT_EQ(rotation_.take(a.get(), 2).share, b);
}

TEST_F(RotationTest, WhatHadNothingToDoIsRefunded) {
  const auto a = add();
  step(milliseconds(2));  // so that it is charged what is typical
  const Duration before = a->deficit;
  const double rounds = rounds_->passed;
  Ready ready = rotation_.take(nullptr, 1);
  EXPECT_EQ(ready.charged, milliseconds(2));
  EXPECT_LT(a->deficit, Duration::zero());
  Rotation::refund(*a, ready.charged);
  EXPECT_EQ(a->deficit, before + Duration(static_cast<Duration::rep>((rounds_->passed - rounds) * 50'000)));
}

TEST_F(RotationTest, WhatIsTypicalFollows) {
  FairShare share;
  Rotation::settle(share, Duration::zero(), milliseconds(8));
  EXPECT_EQ(share.typical, milliseconds(8));
  EXPECT_EQ(share.deficit, -milliseconds(8));
  Rotation::settle(share, milliseconds(8), milliseconds(16));
  EXPECT_EQ(share.typical, milliseconds(9));
  EXPECT_EQ(share.deficit, -milliseconds(16));
}

TEST_F(RotationTest, ManyChannelsAreServedAlike) {
  std::mt19937 random(2);
  std::map<FairSharePtr, Duration> costs;
  Duration most{};
  for (int i = 0; i < 300; ++i) {
    const Duration cost = microseconds(10 + random() % 3'000);
    costs[add()] = cost;
    most = std::max(most, cost);
  }
  const auto used = run(costs, 60'000);
  ASSERT_EQ(used.size(), 300u);
  const auto by_time = [](const auto& a, const auto& b) { return a.second < b.second; };
  const auto [least_used, most_used] = std::minmax_element(used.begin(), used.end(), by_time);
  EXPECT_LE(most_used->second - least_used->second, 2 * most + Rotation::kQuantum);
}

TEST_F(RotationTest, RoundsOfOneLaneCountInTheOther) {
  Rotation other(rounds_);
  const auto debtor = add_to(other, std::make_shared<FairShare>());
  Ready ready = other.take(nullptr, 1);
  Rotation::settle(*debtor, ready.charged, milliseconds(20));
  add_to(other, debtor);
  add();
  for (int i = 0; i < 30; ++i) step(milliseconds(1));
  const double passed = rounds_->passed;
  EXPECT_EQ(other.take(nullptr, 1).share, debtor);
  EXPECT_EQ(rounds_->passed, passed);  // it had been paid off already
}

// A predictor whose calls run in both lanes has one share, not two.
TEST_F(RotationTest, OneShareInTwoLanesIsOneShare) {
  Rotation other(rounds_);
  const auto both = add();
  add_to(other, both);
  const auto here = add();
  const auto there = add_to(other, std::make_shared<FairShare>());
  std::map<FairSharePtr, int> steps;
  for (int i = 0; i < 6'000; ++i) {
    Rotation& lane = i % 2 == 0 ? rotation_ : other;
    Ready ready = lane.take(nullptr, 1);
    ++steps[ready.share];
    Rotation::settle(*ready.share, ready.charged, milliseconds(1));
    add_to(lane, ready.share);
  }
  EXPECT_NEAR(steps[both], 2'000, 150);
  EXPECT_NEAR(steps[here], 2'000, 150);
  EXPECT_NEAR(steps[there], 2'000, 150);
}

}  // namespace
}  // namespace torchpool::testing
