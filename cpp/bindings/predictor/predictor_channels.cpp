#include "bindings/predictor/predictor_channels.h"

#include <algorithm>

#include "bindings/interpreter/waiting.h"
#include "core/sync/error.h"
#include "predict/backends/script_backend.h"

namespace torchpool {

PredictorChannels::PredictorChannels(std::shared_ptr<BoundRuntime> runtime, BoundPredictorOptions options,
                                     std::shared_ptr<Backend> backend, std::shared_ptr<AloneRunner> alone,
                                     std::shared_ptr<ChannelStats> stats)
    : runtime_(std::move(runtime)),
      options_(std::move(options)),
      stats_(std::move(stats)),
      share_(std::make_shared<FairShare>(options_.weight)),
      alone_runner_(std::move(alone)) {
  Runtime& core = runtime_->core();
  ChannelOptions merge = merging_options(backend->lane());
  merge_runner_ =
      std::make_shared<BatchRunner>(std::move(backend), stats_, core.clock(), nullptr, merge.cost, options_.gate);
  merge_runner_->set_max_rows(options_.first_batch);
  ChannelOptions alone_options = channel_options(Lane::kInterpreter);
  alone_options.max_rows = alone_options.first_rows = 1;
  ChannelOptions serial = alone_options;
  serial.max_running = 1;
  // Those that wait take no worker: then there are as many as have a thread.
  alone_options.max_running = std::max(core.workers(), runtime_->call_threads()->most());
  const GilRelease release;  // the lane's threads start now and may want the lock
  merge_ = core.open(std::move(merge), merge_runner_, stats_);
  parallel_ = core.open(std::move(alone_options), alone_runner_, stats_);
  serial_ = core.open(std::move(serial), alone_runner_, stats_);
}

PredictorChannels::~PredictorChannels() {
  close(true);
  const GilRelease release;
  merge_.reset();
  graph_.reset();
  parallel_.reset();
  serial_.reset();
}

ChannelOptions PredictorChannels::channel_options(Lane lane) const {
  ChannelOptions channel;
  channel.name = options_.name;
  channel.limits = options_.limits;
  channel.lane = lane;
  channel.first_rows = options_.first_batch;
  channel.max_rows = options_.max_batch;
  channel.cost = std::make_shared<CostModel>();
  channel.share = share_;
  return channel;
}

ChannelOptions PredictorChannels::merging_options(Lane lane) const {
  ChannelOptions channel = channel_options(lane);
  channel.make_policy = [this](const auto& cost) { return make_policy(cost); };
  return channel;
}

std::unique_ptr<BatchPolicy> PredictorChannels::make_policy(const std::shared_ptr<const CostModel>& cost) const {
  if (make_policy_) return make_policy_(cost);
  return std::make_unique<LearnedPolicy>(cost, options_.max_delay);
}

const std::shared_ptr<Channel>& PredictorChannels::of(const PreparedCall& call) const noexcept {
  if (call.mismatch) return parallel_;
  if (call.route == Route::kMerge) return call.graph ? graph_ : merge_;
  return call.route == Route::kParallel || call.route == Route::kDirect ? parallel_ : serial_;
}

std::vector<std::shared_ptr<Channel>> PredictorChannels::all() const {
  std::vector<std::shared_ptr<Channel>> channels{merge_, parallel_, serial_};
  if (graph_) channels.push_back(graph_);
  return channels;
}

int PredictorChannels::traverse(visitproc visit, void* arg) const {
  const auto* const python = dynamic_cast<const PythonBackend*>(&backend());
  const int stopped = python == nullptr ? 0 : python->traverse(visit, arg);
  return stopped != 0 ? stopped : alone_runner_->traverse(visit, arg);
}

const c10::FunctionSchema* PredictorChannels::script_schema() const {
  const auto* script = dynamic_cast<const ScriptBackend*>(&merge_runner_->backend());
  return script == nullptr ? nullptr : &script->schema();
}

bool PredictorChannels::open_graph() {
  if (closed_ || runtime_->closed()) return false;
  if (graph_) return true;
  ChannelOptions options = merging_options(Lane::kCompute);
  auto runner = std::make_shared<BatchRunner>(nullptr, stats_, runtime_->core().clock(), merge_runner_, options.cost,
                                              options_.gate);
  std::shared_ptr<Channel> opened;
  {
    const GilRelease release;  // the lane's threads start now
    opened = runtime_->core().open(std::move(options), runner, stats_);
  }
  if (graph_) return true;  // by another thread meanwhile
  graph_runner_ = std::move(runner);
  graph_ = std::move(opened);
  return true;
}

void PredictorChannels::set_graph_rows(std::int64_t first_batch, std::int64_t max_batch) {
  options_.max_batch = std::max(options_.max_batch, max_batch);
  graph_->set_rows(first_batch, max_batch);
  graph_runner_->set_max_rows(first_batch);
}

void PredictorChannels::set_rows(std::int64_t first, std::int64_t most) {
  options_.first_batch = first;
  options_.max_batch = most;
  merge_->set_rows(first, most);
  merge_runner_->set_max_rows(first);
}

void PredictorChannels::set_policy(PolicyMaker make) {
  make_policy_ = std::move(make);
  for (const auto& channel : {merge_, graph_}) {
    if (channel) channel->set_policy(make_policy(channel->shared_cost()));
  }
}

void PredictorChannels::check_open() const {
  if (runtime_->is_parents()) {
    throw Closed("predictor '" + options_.name +
                 "': what began before the process was forked cannot go on in the child");
  }
  if (closed_) throw Closed("predictor '" + options_.name + "' is closed");
  if (runtime_->closed()) throw Closed("the runtime of predictor '" + options_.name + "' is closed");
  if (options_.gate->held_by_this_thread()) {
    throw Error("predictor '" + options_.name +
                "' is called inside of its own updating(), whose end the call would wait for: call it after the with "
                "block, or from another thread");
  }
}

void PredictorChannels::close(bool fail_waiting) noexcept {
  closed_ = true;
  const auto channels = all();
  const GilRelease release;
  for (const auto& channel : channels) channel->close(fail_waiting);
}

bool PredictorChannels::wait_drained(std::optional<double> timeout) {
  const TimePoint until = timeout ? after_seconds(*timeout) : kNever;
  const auto waited = [&](auto& what, auto wait) {
    for (;;) {
      bool done = false;
      {
        const GilRelease release;
        done = (what.*wait)(std::min(until, signal_slice()));
      }
      if (done) return true;
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (Clock::steady().now() >= until) return false;
    }
  };
  for (const auto& channel : all()) {
    if (!waited(*channel, &Channel::wait_drained)) return false;
  }
  // Their futures are settled a moment later, by a resolver, which cannot wait for itself.
  return Resolver::on_resolver_thread() || waited(*unnotified_, &Unnotified::wait_none);
}

}  // namespace torchpool
