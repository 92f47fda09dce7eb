#include "bindings/predictor/bound_predictor.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "bindings/call/snapshot.h"
#include "bindings/executor/pool_worker.h"
#include "bindings/predictor/contract_from_python.h"
#include "core/sync/error.h"
#include "predict/backends/script_backend.h"
#include "predict/batch/thread_scope.h"

namespace torchpool {

namespace {

// From one thread to another and back takes 20 to 50 us on an AMD EPYC.
constexpr Duration kHandOver = std::chrono::microseconds(20);

MergeKey unmergeable_key() {
  static std::atomic<std::uint64_t> next{1};
  return {0, next.fetch_add(1, std::memory_order_relaxed)};
}

}  // namespace

// What waited here could wait for itself.
bool BoundPredictor::must_run_inline() {
  return Runtime::on_worker_thread() || Resolver::on_resolver_thread() || InlineLease::held_by_this_thread();
}

BoundPredictor::BoundPredictor(std::shared_ptr<BoundRuntime> runtime, py::object target, py::object learner,
                               const py::list& modules, BoundPredictorOptions options, std::shared_ptr<Backend> backend)
    : runtime_(std::move(runtime)),
      target_(std::move(target)),
      learner_(std::move(learner)),
      options_(std::move(options)),
      stats_(std::make_shared<ChannelStats>()),
      share_(std::make_shared<FairShare>(options_.weight)),
      copies_(make_ref(learner_.attr("own"))),
      watch_(modules) {
  Runtime& core = runtime_->core();
  if (!backend) backend = std::make_shared<PythonBackend>(target_);
  ChannelOptions merge = channel_options(backend->lane());
  merge.make_policy = [this](const auto& cost) { return make_policy(cost); };
  handler_ = std::make_shared<Predictor>(std::move(backend), stats_, core.clock(), nullptr, merge.cost);
  handler_->set_max_rows(options_.first_batch);
  alone_ = std::make_shared<AloneHandler>(target_, learner_, stats_, core.clock());
  ChannelOptions alone = channel_options(Lane::kInterpreter);
  alone.max_rows = alone.first_rows = 1;
  ChannelOptions serial = alone;
  serial.max_running = 1;
  const GilRelease release;  // the lane's threads start now and may want the lock
  merge_ = core.open(std::move(merge), handler_, stats_);
  parallel_ = core.open(std::move(alone), alone_, stats_);
  serial_ = core.open(std::move(serial), alone_, stats_);
}

ChannelOptions BoundPredictor::channel_options(Lane lane) {
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

std::unique_ptr<BatchPolicy> BoundPredictor::make_policy(const std::shared_ptr<const CostModel>& cost) const {
  if (!fixed_batches_) return std::make_unique<LearnedPolicy>(cost, options_.max_delay);
  const auto [rows, seconds] = *fixed_batches_;
  return std::make_unique<FixedPolicy>(rows,
                                       std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds)));
}

BoundPredictor::~BoundPredictor() {
  close(true);
  const GilRelease release;
  merge_.reset();
  graph_.reset();
  parallel_.reset();
  serial_.reset();
}

const std::shared_ptr<Channel>& BoundPredictor::channel_of(const Prepared& call) const noexcept {
  if (call.route == Route::kMerge) return call.graph ? graph_ : merge_;
  return call.route == Route::kParallel ? parallel_ : serial_;
}

std::vector<std::shared_ptr<Channel>> BoundPredictor::channels() const {
  std::vector<std::shared_ptr<Channel>> all{merge_, parallel_, serial_};
  if (graph_) all.push_back(graph_);
  return all;
}

py::object BoundPredictor::try_plain(const py::tuple& args, const py::object& kwargs) {
  at::NoGradGuard no_grad;
  // A forked child's first OpenMP region on a thread that had one before the fork waits for threads that are gone.
  const IntraOpScope one_thread(runtime_->inline_allowed() ? 0 : 1);
  std::atomic<int>& running = runtime_->running_here();
  running.fetch_add(1, std::memory_order_relaxed);
  PyObject* result = PyObject_Call(target_.ptr(), args.ptr(), kwargs.is_none() ? nullptr : kwargs.ptr());
  running.fetch_sub(1, std::memory_order_relaxed);
  return py::reinterpret_steal<py::object>(result);
}

// For the learner's own runs: what they change of the module's attributes, the module writes whenever it runs.
py::object BoundPredictor::run_plain(const py::tuple& args, const py::object& kwargs) {
  const bool as_known = !watch_.look();
  py::object result = try_plain(args, kwargs);
  if (as_known) watch_.rebase_after_run();
  if (!result) throw py::error_already_set();
  return result;
}

// Null when the graph cannot serve it: then the module itself says what is wrong.
py::object BoundPredictor::run_graph_here(const Prepared& call, InlineKind kind) {
  std::vector<at::Tensor> outputs;
  BatchSize size;
  size.rows = call.shape.rows;
  size.length = call.shape.extent();
  size.items = size.rows * size.length;
  Duration took{};
  std::atomic<int>& running = runtime_->running_here();
  running.fetch_add(1, std::memory_order_relaxed);
  try {
    // Two threads that both let go of the lock for a few microseconds hand it to and fro, by the kernel, in every call.
    std::optional<GilRelease> release;
    if (kind != InlineKind::kTiny) release.emplace();
    const TimePoint start = Clock::steady().now();
    outputs = run_one(*call.graph, *call.variant->contract, *call.variant->form, call.flat.leaves, call.shape);
    took = Clock::steady().now() - start;
  } catch (const std::exception&) {
    running.fetch_sub(1, std::memory_order_relaxed);
    stats_->fell_back.fetch_add(1, std::memory_order_relaxed);
    return {};
  }
  running.fetch_sub(1, std::memory_order_relaxed);
  graph_->record_inline(size, took, kind);
  for (auto* counter : {&stats_->accepted, &stats_->inlined, &stats_->succeeded}) {
    counter->fetch_add(1, std::memory_order_relaxed);
  }
  return static_cast<const PyResultForm&>(*call.variant->result_form).rebuild(outputs);
}

py::object BoundPredictor::run_here(const Prepared& call, const py::tuple& args, const py::object& kwargs) {
  stats_->accepted.fetch_add(1, std::memory_order_relaxed);
  stats_->inlined.fetch_add(1, std::memory_order_relaxed);
  py::object result = try_plain(args, kwargs);
  (result ? stats_->succeeded : stats_->failed).fetch_add(1, std::memory_order_relaxed);
  if (!result) refuse(call, args, kwargs);
  if (call.variant && call.variant->aliases) return learner_.attr("own")(result);
  return result;
}

std::shared_ptr<CallRequest> BoundPredictor::make_request(Prepared& call, const py::tuple& args,
                                                          const py::object& kwargs, const CallOptions& options,
                                                          py::object notified, bool to_loop, bool snapshot) {
  RequestInfo info;
  const bool merges = call.route == Route::kMerge;
  if (merges) {
    const std::uint64_t ambient = call.graph ? 0 : call.ambient.merge_key;
    info = call.variant->contract->request_info(call.flat.leaves, call.shape, ambient);
  } else {
    info.key = unmergeable_key();
    for (const at::Tensor& leaf : call.flat.leaves) info.bytes += static_cast<std::int64_t>(leaf.nbytes());
  }
  info.priority = options.priority;
  info.schedule = options.schedule;
  info.chunk = options.chunk;
  if (options.deadline) info.deadline = after_seconds(*options.deadline);
  std::shared_ptr<CallRequest> request;
  Reclaimer& reclaimer = GilReclaimer::instance();
  if (notified.is_none()) {
    request = std::make_shared<CallRequest>(info, reclaimer);
  } else {
    request =
        std::make_shared<NotifyingRequest>(info, reclaimer, to_loop ? runtime_->loops() : runtime_->futures(),
                                           Notified{make_ref(std::move(notified)), Unnotified::Ticket(unnotified_)});
  }
  request->ambient = call.ambient.state;
  if (!merges && call.variant && call.variant->aliases) request->owner = copies_;
  if (!call.flat.opaque.empty() || call.flat.leaves.empty()) {
    py::dict named = kwargs.is_none() ? py::dict() : py::reinterpret_borrow<py::dict>(kwargs);
    request->opaque = call.flat.opaque;
    request->object = make_ref(snapshot ? copy_arguments(args, named) : py::make_tuple(args, named));
    return request;
  }
  request->form =
      call.variant ? call.variant->form : make_form(args.ptr(), kwargs.is_none() ? nullptr : kwargs.ptr(), nullptr);
  request->inputs = std::move(call.flat.leaves);
  if (merges) {
    request->contract = call.variant->contract;
    request->backend = call.graph;
    request->shape = std::move(call.shape);
    request->result_form = call.variant->result_form;
  }
  if (!snapshot) return request;
  for (std::size_t i = 0; i < request->inputs.size(); ++i) {
    at::Tensor& input = request->inputs[i];
    if (input.nbytes() <= kSnapshotBytes) {
      input = copy_of(input);
    } else {
      request->versions.resize(request->inputs.size(), -1);
      if (!input.is_inference()) request->versions[i] = static_cast<std::int64_t>(input._version());
    }
  }
  return request;
}

void BoundPredictor::admit(const std::shared_ptr<CallRequest>& request, Channel& channel, Full full) {
  const bool rejects = full == Full::kReject || (full == Full::kByPolicy && options_.reject);
  const bool slices = handles_signals();
  const Admission admission = must_run_inline()       ? Admission::kBypass
                              : full == Full::kLineUp ? Admission::kLineUp
                              : !rejects              ? Admission::kBlock
                              : options_.reject       ? Admission::kReject
                                                      : Admission::kTry;
  // With room, without letting go of the interpreter's lock: a release at each of a thousand submits would hand it to
  // a worker, and wait to get it back, a thousand times.
  PushResult pushed = channel.submit(request, admission, TimePoint::min());
  if (pushed == PushResult::kAdmitted) return watch(request);
  const ParkedTask parked;
  while (pushed != PushResult::kAdmitted) {
    {
      const GilRelease release;
      pushed = channel.submit(request, admission, slices ? signal_slice() : kNever);
    }
    if (pushed != PushResult::kAdmitted && PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
  watch(request);
}

void BoundPredictor::watch(const std::shared_ptr<CallRequest>& request) {
  if (request->info.deadline != kNever) runtime_->core().watch_deadline(request);
}

py::object BoundPredictor::run_queued(Prepared& call, const py::tuple& args, const py::object& kwargs,
                                      const CallOptions& options) {
  const std::shared_ptr<Channel> channel = channel_of(call);
  const auto request = make_request(call, args, kwargs, options, py::none(), false, false);
  admit(request, *channel, Full::kByPolicy);
  wait_for(*request, channel, kNever);  // a deadline resolves the request itself
  return take_result(*request);
}

py::object BoundPredictor::call(const py::tuple& args, const py::object& kwargs, const CallOptions& options) {
  Prepared call;
  prepare(args, kwargs, call);
  if (call.mismatch) return settle_mismatch(call, args, kwargs);
  // Nested: a worker that waited for another call could wait for itself. Torch modes and functorch cannot move.
  if (must_run_inline() || call.ambient.must_run_here) return run_here(call, args, kwargs);
  if (options.deadline) return run_queued(call, args, kwargs, options);
  const bool any_thread =
      !call.variant || call.route == Route::kLearning || call.route == Route::kDirect || call.route == Route::kParallel;
  if (any_thread) return run_here(call, args, kwargs);
  // Nothing runs or waits: handing the call over would only cost. It has all cores, as a lone call should, or leaves
  // them to others where it is over before one of those could be told.
  if (runtime_->inline_allowed()) {
    Channel& channel = *channel_of(call);
    const Duration learned = channel.cost().estimate_alone(call.shape.rows, call.shape.extent());
    const bool tiny = call.graph && learned > Duration::zero() && learned < kHandOver;
    const InlineKind kind = tiny ? InlineKind::kTiny : InlineKind::kAllCores;
    if (const InlineLease lease = runtime_->core().try_inline(channel, kind)) {
      if (call.graph) {
        if (py::object result = run_graph_here(call, kind)) return result;
      }
      return run_here(call, args, kwargs);
    }
  }
  return run_queued(call, args, kwargs, options);
}

Pending BoundPredictor::submit(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                               const py::object& notified, bool to_loop, Full full) {
  Prepared call;
  prepare(args, kwargs, call);
  if (call.mismatch) return Pending(settle_mismatch(call, args, kwargs));
  if (must_run_inline() || call.ambient.must_run_here) {
    try {
      return Pending(run_here(call, args, kwargs));
    } catch (py::error_already_set& error) {
      return Pending::failed(error.value());
    }
  }
  const std::shared_ptr<Channel> channel = channel_of(call);
  auto request = make_request(call, args, kwargs, options, notified, to_loop, true);
  Pending pending(request, channel);
  // Before it is admitted: it may be done, and `notified` looked at, before this call returns.
  if (!notified.is_none()) notified.attr("_pending") = py::cast(pending);
  try {
    admit(request, *channel, full);
  } catch (...) {
    if (request->try_withdraw()) request->forget_notified();
    throw;
  }
  return pending;
}

void BoundPredictor::set_batch(std::int64_t first, std::int64_t most) {
  options_.first_batch = first;
  options_.max_batch = most;
  merge_->set_rows(first, most);
  handler_->set_max_rows(first);
}

void BoundPredictor::set_fixed_batches(std::optional<std::pair<std::int64_t, double>> fixed) {
  fixed_batches_ = fixed;
  for (const auto& channel : {merge_, graph_}) {
    if (channel) channel->set_policy(make_policy(channel->shared_cost()));
  }
}

bool BoundPredictor::serve_by_graph(std::int64_t variant, const py::object& contract,
                                    std::shared_ptr<graph::GraphBackend> graph, std::int64_t first_batch,
                                    std::int64_t max_batch) {
  if (closed_ || runtime_->closed()) return false;
  if (!graph_) {
    ChannelOptions options = channel_options(Lane::kCompute);
    options.make_policy = [this](const auto& cost) { return make_policy(cost); };
    graph_handler_ = std::make_shared<Predictor>(nullptr, stats_, runtime_->core().clock(), handler_, options.cost);
    std::shared_ptr<Channel> opened;
    {
      const GilRelease release;  // the lane's threads start now
      opened = runtime_->core().open(std::move(options), graph_handler_, stats_);
    }
    if (!graph_) graph_ = std::move(opened);
  }
  const std::shared_ptr<Variant> served = variants_.find(variant);
  if (!served || served->route != Route::kMerge || !served->learned.is(contract)) return false;
  options_.max_batch = std::max(options_.max_batch, max_batch);
  graph_->set_rows(first_batch, max_batch);
  graph_handler_->set_max_rows(first_batch);
  served->graph = std::move(graph);
  return true;
}

void BoundPredictor::close(bool fail_waiting) noexcept {
  closed_ = true;
  const auto all = channels();
  const GilRelease release;
  for (const auto& channel : all) channel->close(fail_waiting);
}

bool BoundPredictor::wait_drained(std::optional<double> timeout) {
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
  for (const auto& channel : channels()) {
    if (!waited(*channel, &Channel::wait_drained)) return false;
  }
  // Their futures are settled a moment later, by a resolver, which cannot wait for itself.
  return Resolver::on_resolver_thread() || waited(*unnotified_, &Unnotified::wait_none);
}

}  // namespace torchpool
