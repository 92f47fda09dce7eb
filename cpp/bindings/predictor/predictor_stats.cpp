#include "bindings/predictor/predictor_stats.h"

namespace torchpool {

namespace {

py::dict histogram_to_python(const Histogram& histogram, double scale) {
  const Histogram::Snapshot snapshot = histogram.snapshot();
  py::dict result;
  result["count"] = snapshot.count;
  result["mean"] = snapshot.mean() * scale;
  result["p50"] = static_cast<double>(snapshot.quantile(0.5)) * scale;
  result["p99"] = static_cast<double>(snapshot.quantile(0.99)) * scale;
  result["max"] = static_cast<double>(snapshot.max) * scale;
  return result;
}

// A size class a dict: the most rows and the greatest length that it holds.
py::list cost_to_python(const CostModel& cost) {
  py::list classes;
  for (const CostModel::Point& point : cost.points()) {
    py::dict one;
    one["rows"] = point.rows;
    one["length"] = point.length;
    one["one_core"] = point.one_core;
    one["batches"] = point.samples;
    one["seconds_per_cell"] = point.ns_per_cell * 1e-9;
    one["seconds_per_item"] = point.ns_per_item == 0 ? py::object(py::none()) : py::cast(point.ns_per_item * 1e-9);
    classes.append(one);
  }
  return classes;
}

}  // namespace

py::dict stats_to_python(const ChannelStats& stats, const PredictorChannels& channels) {
  const auto count = [](const std::atomic<std::uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  py::dict result;
  result["accepted"] = count(stats.accepted);
  result["resolved"] = stats.resolved();
  result["succeeded"] = count(stats.succeeded);
  result["failed"] = count(stats.failed);
  result["cancelled"] = count(stats.cancelled);
  result["expired"] = count(stats.expired);
  result["rejected"] = count(stats.rejected);
  result["inline"] = count(stats.inlined);
  result["fell_back"] = count(stats.fell_back);
  result["upkeep_failed"] = count(stats.upkeep_failed);
  std::int64_t waiting_rows = 0;
  int running_batches = 0;
  for (const auto& channel : channels.all()) {
    waiting_rows += channel->waiting_rows();
    running_batches += channel->running();
  }
  result["waiting_rows"] = waiting_rows;
  result["running_batches"] = running_batches;
  result["max_batch"] = channels.max_batch();
  result["out_of_memory"] = count(stats.out_of_memory);
  result["verified_rows"] = count(stats.verified_rows);
  result["refuted"] = count(stats.refuted);
  const auto cells = static_cast<double>(count(stats.cells));
  result["padding"] = cells == 0 ? 0.0 : 1.0 - static_cast<double>(count(stats.items)) / cells;
  result["cost"] = cost_to_python(channels.merging().cost());
  constexpr double kSeconds = 1e-9;
  result["queue_seconds"] = histogram_to_python(stats.queue_ns, kSeconds);
  result["batch_seconds"] = histogram_to_python(stats.batch_ns, kSeconds);
  result["run_seconds"] = histogram_to_python(stats.run_ns, kSeconds);
  result["batch_rows"] = histogram_to_python(stats.batch_rows, 1.0);
  return result;
}

}  // namespace torchpool
