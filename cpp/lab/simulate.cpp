#include "lab/simulate.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "lab/simulator/fixed_policy.h"
#include "lab/simulator/simulator.h"

namespace torchpool {

namespace py = pybind11;

namespace {

// Seconds of batches by cores, length and rows: between two known numbers of rows on the line through both, beyond the
// last along the last line, at the nearest known length in proportion.
class RecordedCurve {
 public:
  using ByRows = std::map<std::int64_t, double>;
  using ByLength = std::map<std::int64_t, ByRows>;
  explicit RecordedCurve(std::map<int, ByLength> by_cores) : by_cores_(std::move(by_cores)) {
    if (by_cores_.empty()) throw py::value_error("a cost curve needs at least one point");
    for (const auto& [cores, by_length] : by_cores_) {
      for (const auto& [length, by_rows] : by_length) {
        if (by_rows.empty()) throw py::value_error("a cost curve needs at least one point at each length");
        for (const auto& [rows, took] : by_rows) {
          if (rows < 1 || length < 1 || !std::isfinite(took) || took < 0) {
            throw py::value_error("a cost curve has seconds, 0 or more, by lengths and rows of at least 1");
          }
        }
      }
      if (by_length.empty()) throw py::value_error("a cost curve needs at least one length for each number of cores");
    }
  }

  Duration operator()(const BatchSize& size, int cores) const {
    auto at_cores = by_cores_.upper_bound(cores);
    if (at_cores != by_cores_.begin()) --at_cores;
    const ByLength& by_length = at_cores->second;
    auto at_length = by_length.lower_bound(size.length);
    if (at_length == by_length.end()) --at_length;
    const double scale = static_cast<double>(size.length) / static_cast<double>(at_length->first);
    return std::max(Duration(1), from_seconds(scale * at_rows(at_length->second, size.rows)));
  }

 private:
  static double at_rows(const ByRows& by_rows, std::int64_t rows) {
    auto above = by_rows.lower_bound(rows);
    if (above != by_rows.end() && above->first == rows) return above->second;
    if (by_rows.size() == 1)
      return by_rows.begin()->second * static_cast<double>(rows) / static_cast<double>(by_rows.begin()->first);
    if (above == by_rows.end()) --above;
    if (above == by_rows.begin()) ++above;
    const auto below = std::prev(above);
    const double slope = (above->second - below->second) / static_cast<double>(above->first - below->first);
    return std::max(below->second + slope * static_cast<double>(rows - below->first), 1e-9);
  }

  std::map<int, ByLength> by_cores_;
};

void check(bool good, const char* what) {
  if (!good) throw py::value_error(what);
}

// Of a time in seconds.
bool is_time(double value) {
  return std::isfinite(value) && value >= 0 && value < 1e9;
}

SimulatedPredictor read_predictor(const py::dict& given) {
  SimulatedPredictor predictor;
  predictor.cost = RecordedCurve(given["cost"].cast<std::map<int, RecordedCurve::ByLength>>());
  ChannelOptions& options = predictor.options;
  options.max_rows = given["max_rows"].cast<std::int64_t>();
  options.first_rows = given["first_rows"].cast<std::int64_t>();
  options.limits.rows = given["queue_rows"].cast<std::int64_t>();
  const auto weight = given["weight"].cast<double>();
  check(weight >= 0.001 && weight <= 1000, "weight must be 0.001 to 1000");
  options.share = std::make_shared<FairShare>(weight);
  const auto fixed = given["fixed"].cast<std::optional<std::pair<std::int64_t, double>>>();
  const auto longest_delay = given["max_delay"].cast<double>();
  check(is_time(longest_delay), "max_delay must be a number of seconds, 0 or more");
  check(!fixed || (fixed->first >= 1 && is_time(fixed->second)), "fixed must be at least one row and no less than 0 s");
  check(options.first_rows >= 1 && options.max_rows >= 1, "first_rows and max_rows must be at least 1");
  const auto max_delay = from_seconds(longest_delay);
  options.make_policy = [fixed, max_delay](const auto& cost) -> std::unique_ptr<BatchPolicy> {
    if (fixed) return std::make_unique<FixedPolicy>(fixed->first, from_seconds(fixed->second));
    return std::make_unique<LearnedPolicy>(cost, max_delay);
  };
  return predictor;
}

}  // namespace

py::dict simulate_calls(int workers, int cores_per_batch, const py::list& predictors,
                        const std::vector<ListedCall>& calls) {
  std::vector<SimulatedPredictor> read;
  for (const py::handle one : predictors) read.push_back(read_predictor(py::cast<py::dict>(one)));
  std::vector<SimulatedCall> simulated;
  simulated.reserve(calls.size());
  double last = 0;
  for (const auto& [arrival, predictor, rows, length, priority, deadline] : calls) {
    check(is_time(arrival) && arrival >= last, "calls must be in order of their arrivals, 0 s or later");
    check(rows >= 1 && length >= 0, "a call needs at least one row, and a length of 0 or more");
    check(is_time(deadline), "a call's deadline must be a number of seconds, or 0 for none");
    last = arrival;
    simulated.push_back({from_seconds(arrival), predictor, rows, length, priority, from_seconds(deadline)});
  }
  Simulation simulation;
  {
    const py::gil_scoped_release release;
    simulation = simulate(workers, cores_per_batch, std::move(read), simulated);
  }
  py::list outcomes;
  for (const SimulatedOutcome& outcome : simulation.outcomes) {
    const char* end = outcome.end == SimulatedOutcome::End::kSucceeded ? "succeeded"
                      : outcome.end == SimulatedOutcome::End::kExpired ? "expired"
                                                                       : "rejected";
    outcomes.append(py::make_tuple(end, to_seconds(outcome.started), to_seconds(outcome.ended)));
  }
  py::list batches;
  for (const SimulatedBatch& batch : simulation.batches) {
    batches.append(py::make_tuple(batch.predictor, batch.worker, batch.cores, to_seconds(batch.start),
                                  to_seconds(batch.took), batch.size.rows, batch.size.length));
  }
  py::dict result;
  result["outcomes"] = outcomes;
  result["batches"] = batches;
  result["seconds"] = to_seconds(simulation.lasted);
  return result;
}

}  // namespace torchpool
