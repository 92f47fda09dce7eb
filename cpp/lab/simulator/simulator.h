// The scheduling policy on simulated time: the real queues, policies, cost models and scheduler, but no threads and no
// model. A worker's step is an entry in a list of events.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/schedule/channel.h"
#include "core/sync/manual_clock.h"

namespace torchpool {

// What a batch takes: a recorded curve, or a formula.
using CostCurve = std::function<Duration(const BatchSize& size, int cores)>;

struct SimulatedPredictor {
  ChannelOptions options;
  CostCurve cost;
};

struct SimulatedCall {
  Duration arrival{};         // from the start; calls are sorted by it
  std::size_t predictor = 0;  // index
  std::int64_t rows = 1;
  std::int64_t length = 0;  // 0: nothing is padded
  std::int32_t priority = 0;
  Duration deadline{};  // from its arrival; zero: none
};

// What became of a call; times from its arrival.
struct SimulatedOutcome {
  enum class End : std::uint8_t { kSucceeded, kExpired, kRejected };
  End end = End::kRejected;
  Duration started{};  // zero where it never was
  Duration ended{};
};

struct SimulatedBatch {
  std::size_t predictor = 0;
  int worker = 0;
  int cores = 1;
  Duration start{};  // from the start
  Duration took{};
  BatchSize size;
};

struct Simulation {
  std::vector<SimulatedOutcome> outcomes;  // of each call
  std::vector<SimulatedBatch> batches;
  Duration lasted{};
};

// Runs all calls to their end: a deadline ends a call at that moment, as the runtime's timer does, and a batch that
// holds it goes on. Deterministic: equal arguments give equal results. Steps cost nothing but what the curves say:
// hand-overs between threads, for instance, are not simulated. Throws what the core throws.
Simulation simulate(int workers, int cores_per_batch, std::vector<SimulatedPredictor> predictors,
                    const std::vector<SimulatedCall>& calls);

}  // namespace torchpool
