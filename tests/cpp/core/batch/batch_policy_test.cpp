#include "core/batch/batch_policy.h"

#include <algorithm>
#include <functional>
#include <random>

#include "core/test_support.h"

namespace torchpool::testing {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// Nanoseconds of an item in a batch of so many rows.
using ItemCost = std::function<double(double rows)>;

// The smallest costs of a size that may be chosen, and what hysteresis may leave on the table.
constexpr double kBestAtMost = 1.04;

ItemCost with_overhead(double fixed_ns, double row_ns) {
  return [=](double rows) { return fixed_ns / rows + row_ns; };
}

ItemCost cheapest_at(double best) {
  return [=](double rows) { return 1e4 * (rows / best + best / rows); };
}

double cheapest(const ItemCost& cost, std::int64_t max_rows) {
  double least = cost(static_cast<double>(max_rows));
  for (std::int64_t rows = 1; rows <= max_rows; rows *= 2) least = std::min(least, cost(static_cast<double>(rows)));
  return least;
}

// Runs batches as a worker whose queue never runs dry does.
class Driven {
 public:
  explicit Driven(double noise = 0) : noise_(noise) { view.waiting_rows = 1 << 20; }

  std::int64_t step(const ItemCost& cost) {
    const RowLimit limit = policy.rows(view);
    const double spread = 2.0 * static_cast<double>(random_()) / 4294967295.0 - 1.0;
    const double ns = cost(static_cast<double>(limit.rows)) * static_cast<double>(limit.rows) * (1 + noise_ * spread);
    model->record({.rows = limit.rows,
                   .length = view.length,
                   .items = limit.rows * view.length,
                   .limit = limit.learn ? limit.rows : 0},
                  Duration(static_cast<Duration::rep>(ns * static_cast<double>(view.length))), true);
    return limit.rows;
  }
  std::vector<std::int64_t> run(const ItemCost& cost, int batches) {
    std::vector<std::int64_t> rows;
    for (int i = 0; i < batches; ++i) rows.push_back(step(cost));
    return rows;
  }

  std::shared_ptr<CostModel> model = std::make_shared<CostModel>();
  LearnedPolicy policy{model};
  QueueView view;

 private:
  double noise_;
  std::mt19937 random_{11};
};

std::int64_t most_frequent(std::vector<std::int64_t> rows) {
  std::sort(rows.begin(), rows.end());
  std::int64_t found = 0;
  std::ptrdiff_t most = 0;
  for (auto at = rows.begin(); at != rows.end();) {
    const auto end = std::upper_bound(at, rows.end(), *at);
    if (end - at > most) {
      most = end - at;
      found = *at;
    }
    at = end;
  }
  return found;
}

double mean_cost(const ItemCost& cost, const std::vector<std::int64_t>& batches) {
  double spent = 0;
  double items = 0;
  for (const std::int64_t rows : batches) {
    spent += cost(static_cast<double>(rows)) * static_cast<double>(rows);
    items += static_cast<double>(rows);
  }
  return spent / items;
}

struct Curve {
  std::string name;
  ItemCost cost;
};

std::vector<Curve> curves() {
  return {{"overhead", with_overhead(100e3, 10e3)},
          {"flat", with_overhead(0, 10e3)},
          {"cheapest at 8", cheapest_at(8)},
          {"jumps after 256", [](double rows) { return (100e3 / rows + 10e3) * (rows > 256 ? 3 : 1); }}};
}

TEST(LearnedPolicyTest, FindsTheSizeThatIsCheapest) {
  for (const Curve& curve : curves()) {
    Driven driven;
    driven.run(curve.cost, 300);
    const auto rows = driven.run(curve.cost, 320);
    const double chosen = curve.cost(static_cast<double>(most_frequent(rows)));
    EXPECT_LE(chosen, kBestAtMost * cheapest(curve.cost, driven.view.max_rows)) << curve.name;
  }
}

TEST(LearnedPolicyTest, StaysWithItUnderNoise) {
  for (const Curve& curve : curves()) {
    Driven driven(0.05);
    driven.run(curve.cost, 400);
    for (int part = 0; part < 20; ++part) {
      const auto rows = driven.run(curve.cost, 320);
      const double chosen = curve.cost(static_cast<double>(most_frequent(rows)));
      EXPECT_LE(chosen, (kBestAtMost + 0.02) * cheapest(curve.cost, driven.view.max_rows)) << curve.name << ' ' << part;
    }
  }
}

TEST(LearnedPolicyTest, FindsAPronouncedMinimumExactly) {
  for (const std::int64_t best : {1, 2, 8, 128, 1024}) {
    Driven driven(0.05);
    const ItemCost cost = cheapest_at(static_cast<double>(best));
    driven.run(cost, 300);
    EXPECT_EQ(most_frequent(driven.run(cost, 320)), best);
  }
}

TEST(LearnedPolicyTest, TakesTheSmallestOfThoseThatAreAsCheap) {
  Driven driven;
  const ItemCost flat = with_overhead(0, 10e3);
  driven.run(flat, 300);
  EXPECT_EQ(most_frequent(driven.run(flat, 64)), 1);
}

// Once in 32 batches, and what is looked at are the neighbours, which cost little.
TEST(LearnedPolicyTest, LooksAroundRarely) {
  Driven driven(0.02);
  const ItemCost cost = cheapest_at(8);
  driven.run(cost, 300);
  const auto rows = driven.run(cost, 3'200);
  const auto tries = std::count_if(rows.begin(), rows.end(), [](std::int64_t taken) { return taken != 8; });
  EXPECT_GE(tries, 50);
  EXPECT_LE(tries, 110);
  for (const std::int64_t taken : rows) {
    EXPECT_GE(taken, 4);
    EXPECT_LE(taken, 16);
  }
  EXPECT_LE(mean_cost(cost, rows), 1.02 * cost(8));
}

TEST(LearnedPolicyTest, FollowsAChangeOfTheCurve) {
  Driven driven(0.02);
  driven.run(cheapest_at(64), 400);
  EXPECT_EQ(most_frequent(driven.run(cheapest_at(64), 100)), 64);
  driven.run(cheapest_at(8), 3'000);
  EXPECT_EQ(most_frequent(driven.run(cheapest_at(8), 100)), 8);
  driven.run(cheapest_at(64), 3'000);
  EXPECT_EQ(most_frequent(driven.run(cheapest_at(64), 100)), 64);
}

TEST(LearnedPolicyTest, MaxRowsNeedsToBeNoPowerOfTwo) {
  Driven driven;
  driven.view.max_rows = 100;
  const ItemCost cost = with_overhead(1e6, 1e3);
  driven.run(cost, 300);
  const auto rows = driven.run(cost, 320);
  EXPECT_EQ(most_frequent(rows), 100);
  EXPECT_EQ(*std::max_element(rows.begin(), rows.end()), 100);
}

TEST(LearnedPolicyTest, NeverAsksForMoreThanMemoryHolds) {
  Driven driven;
  const ItemCost cost = with_overhead(1e6, 1e3);
  driven.run(cost, 300);
  ASSERT_EQ(most_frequent(driven.run(cost, 64)), 1024);
  driven.model->record_out_of_memory(100, 1);
  const auto rows = driven.run(cost, 60);
  EXPECT_EQ(*std::max_element(rows.begin(), rows.end()), 50);
  EXPECT_EQ(most_frequent(rows), 50);
}

TEST(LearnedPolicyTest, ATryIsNotExpectedToTakeLong) {
  Driven driven;
  const ItemCost cost = with_overhead(5e6, 1e6);  // 32 rows: 37 ms, twice as many more than kLongestTry
  const auto rows = driven.run(cost, 600);
  EXPECT_EQ(*std::max_element(rows.begin(), rows.end()), 32);
}

TEST(LearnedPolicyTest, TriesLargerOnesOnlyWhereEnoughWaitsForAll) {
  Driven driven;
  driven.view.workers = 4;
  driven.view.waiting_rows = 4 * 64 - 1;
  const ItemCost cost = with_overhead(1e6, 1e3);
  auto rows = driven.run(cost, 200);
  EXPECT_EQ(*std::max_element(rows.begin(), rows.end()), 32);
  driven.view.waiting_rows = 4 * 64;
  rows = driven.run(cost, 200);
  EXPECT_EQ(*std::max_element(rows.begin(), rows.end()), 64);
}

TEST(LearnedPolicyTest, EachLengthHasASizeOfItsOwn) {
  Driven driven;
  for (int i = 0; i < 400; ++i) {
    driven.view.length = 16;
    driven.step(cheapest_at(64));
    driven.view.length = 512;
    driven.step(cheapest_at(4));
  }
  std::vector<std::int64_t> short_rows;
  std::vector<std::int64_t> long_rows;
  for (int i = 0; i < 64; ++i) {
    driven.view.length = 16;
    short_rows.push_back(driven.step(cheapest_at(64)));
    driven.view.length = 512;
    long_rows.push_back(driven.step(cheapest_at(4)));
  }
  EXPECT_EQ(most_frequent(short_rows), 64);
  EXPECT_EQ(most_frequent(long_rows), 4);
}

// Rows that a policy which knows nothing allows: 32 at first.
RowLimit first_limit(QueueView view) {
  return LearnedPolicy(std::make_shared<CostModel>()).rows(view);
}

TEST(LearnedPolicyTest, GuidedBatchesTakeAWorkersPartAndAHalfOfWhatWaits) {
  EXPECT_EQ(first_limit({.workers = 4, .waiting_rows = 16}).rows, 6);
  EXPECT_EQ(first_limit({.workers = 4, .waiting_rows = 20}).rows, 8);
  EXPECT_EQ(first_limit({.workers = 4, .waiting_rows = 1}).rows, 1);
  EXPECT_EQ(first_limit({.workers = 4, .waiting_rows = 62}).rows, 24);
  EXPECT_EQ(first_limit({.workers = 4, .waiting_rows = 1'000}).rows, 32);
  EXPECT_EQ(first_limit({.workers = 2, .waiting_rows = 9}).rows, 7);
  EXPECT_GE(first_limit({.workers = 1, .waiting_rows = 9}).rows, 9);
  // A part is no size that was chosen: nothing is to be learned from it.
  EXPECT_FALSE(first_limit({.workers = 4, .waiting_rows = 20}).learn);
  EXPECT_TRUE(first_limit({.workers = 4, .waiting_rows = 1'000}).learn);
}

TEST(LearnedPolicyTest, AGuidedChunkIsTheLeastOfABatch) {
  EXPECT_EQ(first_limit({.workers = 4, .waiting_rows = 20, .chunk = 16}).rows, 16);
  EXPECT_EQ(first_limit({.workers = 4, .waiting_rows = 20, .chunk = 4}).rows, 8);
  EXPECT_EQ(first_limit({.workers = 4, .waiting_rows = 1'000, .chunk = 64}).rows, 64);
  EXPECT_EQ(first_limit({.max_rows = 48, .workers = 4, .waiting_rows = 1'000, .chunk = 64}).rows, 48);
}

TEST(LearnedPolicyTest, DynamicBatchesAreWholeOnesOfAChunkAtMost) {
  EXPECT_EQ(first_limit({.workers = 4, .waiting_rows = 20, .schedule = Schedule::kDynamic}).rows, 32);
  const RowLimit chunk =
      first_limit({.workers = 4, .waiting_rows = 1'000, .schedule = Schedule::kDynamic, .chunk = 64});
  EXPECT_EQ(chunk.rows, 64);
  EXPECT_FALSE(chunk.learn);
  EXPECT_EQ(first_limit({.max_rows = 48, .waiting_rows = 1'000, .schedule = Schedule::kDynamic, .chunk = 64}).rows, 48);
}

// One row takes 1,000 us, each more 100 us: one that is waited for saves 900 us.
class HoldTest : public ::testing::Test {
 protected:
  HoldTest() {
    for (std::int64_t rows = 1; rows <= 64; ++rows) {
      for (int i = 0; i < 20; ++i) model_->record({.rows = rows, .items = rows}, microseconds(900 + 100 * rows), true);
    }
  }
  QueueView view(std::int64_t waiting, Duration gap) const {
    QueueView view;
    view.waiting_rows = waiting;
    view.oldest = view.newest = now_;
    view.arrival_gap = gap;
    return view;
  }
  std::shared_ptr<CostModel> model_ = std::make_shared<CostModel>();
  const TimePoint now_ = TimePoint{} + std::chrono::hours(1);
};

TEST_F(HoldTest, NeverWithoutAMaximalDelay) {
  LearnedPolicy policy(model_);
  EXPECT_LE(policy.hold_until(view(1, microseconds(1)), now_), now_);
}

TEST_F(HoldTest, OnlyWhereOneMoreArrivalPays) {
  LearnedPolicy policy(model_, milliseconds(10));
  EXPECT_EQ(policy.hold_until(view(1, microseconds(300)), now_), now_ + microseconds(600));
  EXPECT_EQ(policy.hold_until(view(1, microseconds(899)), now_), now_ + microseconds(1798));
  EXPECT_LE(policy.hold_until(view(1, microseconds(901)), now_), now_);
  EXPECT_LE(policy.hold_until(view(1, Duration::zero()), now_), now_);  // nothing is known of arrivals
  LearnedPolicy knows_nothing(std::make_shared<CostModel>(), milliseconds(10));
  EXPECT_LE(knows_nothing.hold_until(view(1, microseconds(1)), now_), now_);
}

TEST_F(HoldTest, NoLongerThanTheMaximalDelayFromTheOldest) {
  LearnedPolicy policy(model_, milliseconds(10));
  QueueView queue = view(3, microseconds(300));
  queue.oldest = now_ - microseconds(9'900);
  EXPECT_EQ(policy.hold_until(queue, now_), now_ + microseconds(100));
  queue.oldest = now_ - milliseconds(11);
  EXPECT_LE(policy.hold_until(queue, now_), now_);
}

// Else a call that is the last of a stream would wait for all of the delay.
TEST_F(HoldTest, EndsWhenTheNextOneDoesNotComeInTwiceItsTime) {
  LearnedPolicy policy(model_, milliseconds(10));
  QueueView queue = view(1, microseconds(300));
  EXPECT_EQ(policy.hold_until(queue, now_ + microseconds(400)), now_ + microseconds(600));
  EXPECT_LE(policy.hold_until(queue, now_ + microseconds(600)), now_ + microseconds(600));
}

TEST_F(HoldTest, NotWhereABatchIsFull) {
  LearnedPolicy policy(model_, milliseconds(10));
  EXPECT_GT(policy.hold_until(view(31, microseconds(1)), now_), now_);
  EXPECT_LE(policy.hold_until(view(32, microseconds(1)), now_), now_);
  QueueView queue = view(4, microseconds(1));
  queue.schedule = Schedule::kDynamic;
  queue.chunk = 4;
  EXPECT_LE(policy.hold_until(queue, now_), now_);
  queue.chunk = 5;
  EXPECT_GT(policy.hold_until(queue, now_), now_);
}

TEST_F(HoldTest, IsTheSameForManyWorkers) {
  LearnedPolicy policy(model_, milliseconds(10));
  QueueView queue = view(4, microseconds(300));
  queue.workers = 8;
  EXPECT_EQ(policy.rows(queue).rows, 1);  // a part is all that one of them takes
  EXPECT_EQ(policy.hold_until(queue, now_), now_ + microseconds(600));
}

}  // namespace
}  // namespace torchpool::testing
