#include "bindings/predictor/inline_runner.h"

#include <ATen/core/grad_mode.h>

#include <atomic>

#include "bindings/inplace/inside.h"
#include "bindings/interpreter/bound_gate.h"
#include "bindings/predictor/python_backend.h"
#include "core/machine/cpu_time.h"
#include "core/sync/error.h"
#include "predict/batch/batch_runner.h"
#include "predict/batch/thread_scope.h"

namespace torchpool {

namespace {

// From one thread to another and back takes 20 to 50 us on an AMD EPYC.
constexpr Duration kHandOver = std::chrono::microseconds(30);

thread_local int runs_of_this_thread = 0;

// Counts the processor time of a run of a kind that is put off until its calls have taken enough of it.
class SpentTime {
 public:
  explicit SpentTime(const PreparedCall& call) noexcept
      : spent_(call.kind ? call.kind->spent : nullptr), start_(spent_ ? thread_time() : Duration::zero()) {}
  ~SpentTime() {
    if (spent_) spent_->fetch_add((thread_time() - start_).count(), std::memory_order_relaxed);
  }
  SpentTime(const SpentTime&) = delete;
  SpentTime& operator=(const SpentTime&) = delete;

 private:
  const std::shared_ptr<std::atomic<std::int64_t>> spent_;
  const Duration start_;
};

// A failure costs speed only, as in a batch's task.
class UpkeepTask : public Task {
 public:
  UpkeepTask(std::shared_ptr<graph::GraphBackend> graph, std::shared_ptr<ChannelStats> stats)
      : graph_(std::move(graph)), stats_(std::move(stats)) {}
  Step step(WorkerContext& /*context*/) noexcept override {
    try {
      graph_->upkeep();
    } catch (const std::exception&) {
      stats_->upkeep_failed.fetch_add(1, std::memory_order_relaxed);
    }
    return Step::done();
  }

 private:
  std::shared_ptr<graph::GraphBackend> graph_;
  std::shared_ptr<ChannelStats> stats_;
};

}  // namespace

InlineRunner::InlineRunner(std::shared_ptr<BoundRuntime> runtime, py::object target, const BoundLearner& learner,
                           std::shared_ptr<ChannelStats> stats, std::shared_ptr<UpdateGate> gate, bool invariant)
    : runtime_(std::move(runtime)),
      target_(std::move(target)),
      learner_(learner),
      stats_(std::move(stats)),
      gate_(std::move(gate)),
      invariant_(invariant) {}

bool InlineRunner::runs_here() noexcept {
  return runs_of_this_thread > 0 || CallThreads::on_call_thread();
}

// Null, with the Python error set, where the module raises.
py::object InlineRunner::try_plain(const py::object& target, const py::tuple& args, const py::object& kwargs) const {
  at::NoGradGuard no_grad;
  std::atomic<int>& running = runtime_->running_here();
  const int others = running.fetch_add(1, std::memory_order_relaxed);
  // A forked child's first OpenMP region on a thread that had one before the fork waits for threads that are gone.
  const int threads = invariant_ || !runtime_->inline_allowed() ? 1 : runs_here() ? 0 : share_of_cores(others + 1);
  const IntraOpScope scope(threads);
  ++runs_of_this_thread;
  PyObject* result = PyObject_Call(target.ptr(), args.ptr(), kwargs.is_none() ? nullptr : kwargs.ptr());
  --runs_of_this_thread;
  running.fetch_sub(1, std::memory_order_relaxed);
  return py::reinterpret_steal<py::object>(result);
}

py::object InlineRunner::run_watched(ModuleWatch& watch, const py::tuple& args, const py::object& kwargs) const {
  const GateEntry entry = enter_gate(gate_);
  const InGate in_gate(gate_.get());
  const bool as_known = !watch.look();
  py::object result = try_plain(target_, args, kwargs);
  std::optional<py::error_already_set> raised;  // see Note [An error that is set]
  if (!result) raised.emplace();
  if (as_known) {
    // Hooks that a run sets for itself and takes away again would act on every other run of that time. Those that stay,
    // as some models set them in their first run, are a change like any other.
    const bool moved = watch.run_changed_structure();
    if (moved && watch.look().kind != ChangeKind::kStructure) gate_->admit_one_at_a_time();
    watch.rebase_after_run([this](const Difference& found) { return learner_.own_change(found); });
  }
  if (raised) throw py::error_already_set(*raised);
  return result;
}

// Batches see to it themselves; where all calls run on their callers' threads, nobody else would.
void InlineRunner::keep_up(const std::shared_ptr<graph::GraphBackend>& graph) const {
  if (!graph->ask_upkeep()) return;
  try {
    runtime_->core().post(Lane::kCompute, std::make_unique<UpkeepTask>(graph, stats_));
  } catch (const Closed&) {
    return;  // no call comes any more
  }
}

// Null when the graph cannot serve it: then the module itself says what is wrong.
py::object InlineRunner::try_graph(const PreparedCall& call, Channel* channel, bool one_core, bool tiny) const {
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
    if (!tiny) release.emplace();
    const IntraOpScope scope(one_core ? 1 : 0);
    const TimePoint start = Clock::steady().now();
    outputs = run_one(*call.graph, *call.contract, *call.kind->form, call.flat.leaves, call.shape);
    took = Clock::steady().now() - start;
  } catch (const std::exception&) {
    running.fetch_sub(1, std::memory_order_relaxed);
    stats_->fell_back.fetch_add(1, std::memory_order_relaxed);
    return {};
  }
  running.fetch_sub(1, std::memory_order_relaxed);
  if (channel != nullptr) channel->record_inline(size, took, one_core);
  keep_up(call.graph);
  return static_cast<const PyResultForm&>(*call.contract->result_form).rebuild(outputs);
}

py::object InlineRunner::run(const PreparedCall& call, const py::tuple& args, const py::object& kwargs) const {
  const GateEntry entry = enter_gate(gate_, call.until);
  const InGate in_gate(gate_.get());
  InlineCount count(*stats_);
  if (invariant_ && call.graph && !call.mismatch && !call.ambient.must_run_here) {
    // This thread may be a worker: it keeps the lock, for which it would have to wait.
    if (py::object result = try_graph(call, nullptr, /*one_core=*/false, /*tiny=*/true)) {
      count.succeeded();
      return result;
    }
  }
  return run_counted(call, args, kwargs, count);
}

py::object InlineRunner::run_counted(const PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                                     InlineCount& count) const {
  const SpentTime spent(call);
  py::object result;
  if (call.look) {
    const InsideScope inside;
    const PyRef look = learner_.look(call.kind.get());
    const py::object named = kwargs.is_none() ? py::object(py::dict()) : kwargs;
    result = try_plain(borrow(look), py::make_tuple(args, named), py::none());
    if (result) result = take_look(result, *call.look);
  } else {
    result = try_plain(target_, args, kwargs);
  }
  if (!result) learner_.refuse(call, args, kwargs);
  count.succeeded();
  if (call.kind && call.kind->aliases && !is_callers_own(result)) return learner_.own(result);
  return result;
}

// Nothing runs or waits: handing the call over would only cost. It has all cores, as a lone call should, or leaves them
// to others where it is over before one of those could be told.
py::object InlineRunner::run_if_idle(const PreparedCall& call, Channel& channel, const py::tuple& args,
                                     const py::object& kwargs) const {
  if (!runtime_->inline_allowed() || !gate_->try_enter()) return {};
  const GateEntry entry(gate_);
  const InGate in_gate(gate_.get());
  const std::int64_t rows = call.shape.rows;
  const std::int64_t length = call.shape.extent();
  const bool one_core = call.graph && !channel.cost().gains_by_cores(rows, length);
  const Duration learned = one_core ? channel.cost().measured_on_one_core(rows, length) : Duration::zero();
  const bool tiny = learned > Duration::zero() && learned < kHandOver;
  InlineLease lease = runtime_->core().try_inline(channel, tiny ? InlineKind::kTiny : InlineKind::kAllCores);
  if (!lease) return {};
  InlineCount count(*stats_);
  if (call.graph) {
    if (py::object result = try_graph(call, &channel, one_core, tiny)) {
      count.succeeded();
      return result;
    }
  }
  // With all cores nobody else's work would begin, and the module's own code may wait for other calls, or for a lock
  // whose holder waits for one.
  lease.give_back_cores();
  return run_counted(call, args, kwargs, count);
}

}  // namespace torchpool
