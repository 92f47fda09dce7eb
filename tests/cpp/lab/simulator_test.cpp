#include "lab/simulator/simulator.h"

#include <algorithm>
#include <map>
#include <random>
#include <stdexcept>
#include <tuple>

#include "core/test_support.h"
#include "lab/simulator/fixed_policy.h"

namespace torchpool::testing {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using End = SimulatedOutcome::End;

Duration ms(int time) {
  return milliseconds(time);
}

// Each row takes so long on one core, and that much less on several.
CostCurve per_row(Duration time, Duration fixed = {}) {
  return [=](const BatchSize& size, int cores) { return fixed + time * size.rows / cores; };
}

SimulatedPredictor predictor(std::int64_t max_rows, CostCurve cost) {
  return {with_rows(max_rows), std::move(cost)};
}

SimulatedPredictor held(std::int64_t max_rows, Duration delay, CostCurve cost) {
  SimulatedPredictor made = predictor(max_rows, std::move(cost));
  made.options.make_policy = [=](const auto&) { return std::make_unique<FixedPolicy>(max_rows, delay); };
  return made;
}

std::vector<SimulatedCall> calls_at(const std::vector<int>& times) {
  std::vector<SimulatedCall> calls;
  for (const int time : times) calls.push_back({.arrival = ms(time)});
  return calls;
}

std::vector<Duration> ends(const Simulation& simulation) {
  std::vector<Duration> found;
  for (const SimulatedOutcome& outcome : simulation.outcomes) found.push_back(outcome.ended);
  return found;
}

using Batches = std::vector<std::tuple<Duration, std::int64_t, int>>;  // start, rows, cores
Batches batches(const Simulation& simulation) {
  Batches found;
  for (const SimulatedBatch& batch : simulation.batches) found.emplace_back(batch.start, batch.size.rows, batch.cores);
  return found;
}

TEST(SimulatorTest, NothingTakesNoTime) {
  const Simulation simulation = simulate(2, 1, {predictor(4, per_row(ms(1)))}, {});
  EXPECT_TRUE(simulation.batches.empty());
  EXPECT_EQ(simulation.lasted, Duration::zero());
}

TEST(SimulatorTest, OneWorkerTakesWhatWaits) {
  const Simulation simulation = simulate(1, 1, {predictor(2, per_row(ms(1), ms(1)))}, calls_at({0, 0, 0, 1, 9}));
  EXPECT_EQ(batches(simulation), (Batches{{ms(0), 1, 1}, {ms(2), 2, 1}, {ms(5), 1, 1}, {ms(9), 1, 1}}));
  EXPECT_EQ(ends(simulation), (std::vector{ms(2), ms(5), ms(5), ms(6), ms(2)}));
  EXPECT_EQ(simulation.outcomes[2].started, ms(2));
  EXPECT_EQ(simulation.lasted, ms(11));
}

// The first call has both cores; the rest is shared by two workers, who have one each.
TEST(SimulatorTest, WorkersShareWhatWaits) {
  const Simulation simulation = simulate(2, 1, {predictor(8, per_row(ms(2)))}, calls_at({0, 0, 0, 0}));
  EXPECT_EQ(batches(simulation), (Batches{{ms(0), 1, 2}, {ms(1), 2, 1}, {ms(1), 1, 1}}));
  EXPECT_EQ(ends(simulation), (std::vector{ms(1), ms(5), ms(5), ms(3)}));
}

TEST(SimulatorTest, ABatchHasItsCores) {
  const Simulation simulation = simulate(2, 2, {predictor(1, per_row(ms(4)))}, calls_at({0, 0, 0}));
  EXPECT_EQ(batches(simulation), (Batches{{ms(0), 1, 4}, {ms(1), 1, 2}, {ms(1), 1, 2}}));
}

TEST(SimulatorTest, FixedBatchesWaitForTheirDelayOrTheirRows) {
  const Simulation waits = simulate(1, 1, {held(4, ms(10), per_row(ms(1)))}, calls_at({0, 3}));
  EXPECT_EQ(batches(waits), (Batches{{ms(10), 2, 1}}));
  EXPECT_EQ(ends(waits), (std::vector{ms(12), ms(9)}));
  const Simulation fills = simulate(1, 1, {held(4, ms(10), per_row(ms(1)))}, calls_at({0, 1, 2, 3, 4}));
  EXPECT_EQ(batches(fills), (Batches{{ms(3), 4, 1}, {ms(14), 1, 1}}));
}

TEST(SimulatorTest, SeveralAreHeldEachForItsOwnTime) {
  std::vector<SimulatedCall> calls = calls_at({0, 1, 2});
  calls[1].predictor = 1;
  calls[2].predictor = 2;
  const Simulation simulation = simulate(
      2, 1, {held(4, ms(9), per_row(ms(1))), held(4, ms(4), per_row(ms(1))), predictor(4, per_row(ms(2)))}, calls);
  EXPECT_EQ(batches(simulation), (Batches{{ms(2), 1, 2}, {ms(5), 1, 2}, {ms(9), 1, 2}}));
}

TEST(SimulatorTest, ADeadlineEndsACallAtThatMoment) {
  std::vector<SimulatedCall> calls = calls_at({0, 0, 0, 30});
  calls[1].deadline = ms(5);   // before its turn
  calls[2].deadline = ms(15);  // while it runs, from 10 to 20
  calls[3].deadline = ms(10);  // just met
  const Simulation simulation = simulate(1, 1, {predictor(1, per_row(ms(10)))}, calls);
  EXPECT_EQ(ends(simulation), (std::vector{ms(10), ms(5), ms(15), ms(10)}));
  EXPECT_EQ(simulation.outcomes[0].end, End::kSucceeded);
  EXPECT_EQ(simulation.outcomes[1].end, End::kExpired);
  EXPECT_EQ(simulation.outcomes[2].end, End::kExpired);
  EXPECT_EQ(simulation.outcomes[2].started, ms(10));
  EXPECT_EQ(simulation.outcomes[3].end, End::kSucceeded);
  EXPECT_EQ(batches(simulation), (Batches{{ms(0), 1, 1}, {ms(10), 1, 1}, {ms(30), 1, 1}}));
}

TEST(SimulatorTest, PriorityGoesFirst) {
  std::vector<SimulatedCall> calls = calls_at({0, 0, 1, 2});
  calls[3].priority = 1;
  const Simulation simulation = simulate(1, 1, {predictor(1, per_row(ms(10)))}, calls);
  EXPECT_EQ(ends(simulation), (std::vector{ms(10), ms(30), ms(39), ms(18)}));
}

TEST(SimulatorTest, AFullQueueRejects) {
  SimulatedPredictor small = predictor(1, per_row(ms(10)));
  small.options.limits.rows = 2;
  const Simulation simulation = simulate(1, 1, {std::move(small)}, calls_at({0, 0, 0, 0, 11}));
  EXPECT_EQ(simulation.outcomes[2].end, End::kSucceeded);
  EXPECT_EQ(simulation.outcomes[3].end, End::kRejected);
  EXPECT_EQ(simulation.outcomes[4].end, End::kSucceeded);
  EXPECT_EQ(simulation.batches.size(), 4u);
}

TEST(SimulatorTest, LengthsArePadded) {
  std::vector<SimulatedCall> calls = calls_at({0, 0, 0});
  calls[1].length = 10;
  calls[2].length = 9;
  const auto by_cells = [](const BatchSize& size, int) { return ms(static_cast<int>(size.rows * size.length)); };
  const Simulation simulation = simulate(1, 1, {predictor(4, by_cells)}, calls);
  ASSERT_EQ(simulation.batches.size(), 2u);
  EXPECT_EQ(simulation.batches[1].size.length, 10);
  EXPECT_EQ(simulation.batches[1].size.items, 19);
  EXPECT_EQ(ends(simulation), (std::vector{ms(1), ms(21), ms(21)}));
}

TEST(SimulatorTest, RefusesWhatMakesNoSense) {
  EXPECT_THROW(simulate(0, 1, {}, {}), std::invalid_argument);
  EXPECT_THROW(simulate(1, 0, {}, {}), std::invalid_argument);
  EXPECT_THROW(simulate(1, 1, {}, calls_at({0})), std::invalid_argument);
}

// Two predictors, learned and fixed sizes, deadlines, priorities, lengths, more than the workers can do at times.
Simulation mixed_load(std::uint32_t seed, std::vector<SimulatedCall>& calls) {
  std::mt19937 random(seed);
  Duration arrival{};
  for (int i = 0; i < 3'000; ++i) {
    SimulatedCall call;
    arrival += microseconds(random() % (i % 600 < 300 ? 400 : 3'000));
    call.arrival = arrival;
    call.predictor = random() % 2;
    call.rows = 1 + random() % 3;
    if (call.predictor == 0) call.length = 1 + random() % 60;
    call.priority = random() % 10 == 0 ? 1 : 0;
    if (random() % 3 == 0) call.deadline = milliseconds(1 + random() % 40);
    calls.push_back(call);
  }
  const auto cost = [](const BatchSize& size, int cores) {
    return microseconds(300) + microseconds(8) * size.rows * size.length / cores;
  };
  SimulatedPredictor learned = predictor(64, cost);
  learned.options.make_policy = [](const auto& known) { return std::make_unique<LearnedPolicy>(known, ms(2)); };
  std::vector<SimulatedPredictor> predictors;
  predictors.push_back(std::move(learned));
  predictors.push_back(held(8, ms(3), per_row(microseconds(500))));
  return simulate(3, 1, std::move(predictors), calls);
}

TEST(SimulatorTest, EqualArgumentsGiveEqualResults) {
  std::vector<SimulatedCall> calls;
  const Simulation first = mixed_load(1, calls);
  calls.clear();
  const Simulation second = mixed_load(1, calls);
  calls.clear();
  EXPECT_EQ(batches(first), batches(second));
  EXPECT_EQ(ends(first), ends(second));
  EXPECT_NE(ends(first), ends(mixed_load(2, calls)));
}

TEST(SimulatorTest, WhatIsAcceptedEndsAndNoWorkerOrCoreIsUsedTwice) {
  for (const std::uint32_t seed : {3u, 4u, 5u}) {
    std::vector<SimulatedCall> calls;
    const Simulation simulation = mixed_load(seed, calls);
    std::map<End, int> count;
    std::int64_t rows = 0;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      const SimulatedOutcome& outcome = simulation.outcomes[i];
      ++count[outcome.end];
      EXPECT_GE(outcome.ended, outcome.started);
      if (calls[i].deadline > Duration::zero()) {
        EXPECT_LE(outcome.ended, calls[i].deadline);
      }
      if (outcome.end == End::kSucceeded) rows += calls[i].rows;
    }
    EXPECT_EQ(count[End::kRejected], 0);  // the queues hold 4,096: one that never ended would be among these
    EXPECT_GT(count[End::kExpired], 0);
    EXPECT_GT(count[End::kSucceeded], 2'000);
    std::int64_t run = 0;
    for (const SimulatedBatch& batch : simulation.batches) {
      run += batch.size.rows;
      EXPECT_LE(batch.size.rows, batch.predictor == 0 ? 64 : 8);
      int cores = 0;
      for (const SimulatedBatch& other : simulation.batches) {
        const bool overlaps = other.start <= batch.start && batch.start < other.start + other.took;
        if (overlaps) cores += other.cores;
        if (&other != &batch && overlaps) {
          EXPECT_NE(other.worker, batch.worker);
        }
      }
      EXPECT_LE(cores, 3);
    }
    EXPECT_GE(run, rows);
  }
}

// Both have more work than there is time for: what each gets is as their weights.
TEST(SimulatorTest, WeightsShareTheWorkers) {
  std::vector<SimulatedPredictor> predictors;
  predictors.push_back(predictor(1, per_row(ms(4))));
  predictors.push_back(predictor(4, per_row(ms(1))));
  predictors[1].options.share = std::make_shared<FairShare>(3.0);
  for (SimulatedPredictor& each : predictors) each.options.limits.rows = 1 << 20;
  std::vector<SimulatedCall> calls;
  for (int i = 0; i < 8'000; ++i) {
    calls.push_back({.arrival = microseconds(i)});
    calls.back().predictor = i % 2 == 0 ? 0 : 1;
  }
  std::map<std::size_t, double> used;
  for (const SimulatedBatch& batch : simulate(2, 1, std::move(predictors), calls).batches) {
    if (batch.start < ms(2'000)) used[batch.predictor] += static_cast<double>((batch.took * batch.cores).count());
  }
  EXPECT_NEAR(used[1] / used[0], 3, 0.15);
}

}  // namespace
}  // namespace torchpool::testing
