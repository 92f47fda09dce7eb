#include "bindings/predictor/bound_predictor.h"

#include <ATen/core/grad_mode.h>

#include <utility>

#include "bindings/awaited/awaited_call.h"
#include "bindings/executor/pool_worker.h"
#include "bindings/inplace/inside.h"
#include "bindings/predictor/predictor_stats.h"

namespace torchpool {

namespace {

// A call that departs from its kind's contract, while the learner answers it on this thread.
class Answering {
 public:
  Answering(const BoundPredictor& by, PreparedCall& answered) noexcept
      : predictor(by), call(answered), outer_(std::exchange(innermost_, this)) {}
  ~Answering() { innermost_ = outer_; }
  Answering(const Answering&) = delete;
  Answering& operator=(const Answering&) = delete;
  static Answering* innermost() noexcept { return innermost_; }

  const BoundPredictor& predictor;
  PreparedCall& call;

 private:
  static thread_local Answering* innermost_;
  Answering* const outer_;
};
thread_local Answering* Answering::innermost_ = nullptr;

}  // namespace

BoundPredictor::BoundPredictor(std::shared_ptr<BoundRuntime> runtime, const py::object& target,
                               const py::object& learner, const py::list& modules, const BoundPredictorOptions& options,
                               std::shared_ptr<Backend> backend)
    : runtime_(std::move(runtime)),
      stats_(std::make_shared<ChannelStats>()),
      learner_(learner, options.by_graph, options.verify, stats_),
      channels_(runtime_, options,
                backend ? std::move(backend) : std::make_shared<PythonBackend>(target, options.invariant),
                std::make_shared<AloneRunner>(target, learner, stats_, runtime_->core().clock(), options.gate,
                                              runtime_->call_threads(), !learner_.looks_for_state(), options.invariant),
                stats_),
      reader_(modules, options.by_graph, options.invariant, learner_, channels_),
      inline_(runtime_, target, learner_, stats_, options.gate, options.invariant),
      requests_(runtime_, learner_, channels_.unnotified(), options.reject),
      turns_(stats_) {}

void BoundPredictor::look_at_gradients() {
  if (gradients_told_ || !at::GradMode::is_enabled()) return;
  const std::uint64_t calls = ++calls_with_gradients_;
  if ((calls & (calls - 1)) != 0 || is_inside() || must_run_inline()) return;
  const py::object text = learner_.gradients_lost();
  if (text.is_none() || gradients_told_) return;
  gradients_told_ = true;
  if (PyErr_WarnEx(PyExc_UserWarning, text.cast<std::string>().c_str(), 2) != 0) throw py::error_already_set();
}

py::object BoundPredictor::call(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                                TurnPtr turn, bool may_put_off) {
  const InPredictor in_predictor;
  look_at_gradients();
  PreparedCall call;
  read_in_turn(args, kwargs, options, call, std::move(turn), may_put_off);
  if (settles_here(call, options)) return settle(call, args, kwargs);
  // Nested: a worker that waited for another call could wait for itself. Torch modes and functorch cannot move.
  if (must_run_inline() || call.ambient.must_run_here) return inline_.run(call, args, kwargs);
  if (options.deadline) return run_queued(call, args, kwargs, options);
  if (call.look && !InlineRunner::runs_here()) reader_.wait_for_first_run(call);
  const bool any_thread = call.look || call.route == Route::kUnknown || call.route == Route::kLearning ||
                          call.route == Route::kDirect || call.route == Route::kParallel;
  if (any_thread) return inline_.run(call, args, kwargs);
  if (py::object result = inline_.run_if_idle(call, *channels_.of(call), args, kwargs)) return result;
  return run_queued(call, args, kwargs, options);
}

bool BoundPredictor::settles_here(const PreparedCall& call, const CallOptions& options) const {
  if (must_run_inline()) return call.mismatch.has_value();
  return !options.deadline && (call.mismatch || call.new_sizes);
}

void BoundPredictor::read_in_turn(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                                  PreparedCall& call, TurnPtr turn, bool may_put_off) {
  for (;;) {
    const bool alone = turn && turn->alone() && turn->open();
    call.until = options.deadline.value_or(kNever);
    reader_.read(args, kwargs, call, options.deadline, may_put_off && !options.deadline, alone);
    if (!CallTurns::apply_here()) return;
    const bool wants_alone = call.new_sizes || call.learns_alone;
    if (!turn || (wants_alone && !turn->alone())) turn = turns_.take(call);
    if (turn->open() && !call.learns_alone) {
      call.turn = std::move(turn);
      return;
    }
    call = {};  // nothing of it may hold when its turn has come
    turns_.wait(*turn, options.deadline.value_or(kNever));
  }
}

py::object BoundPredictor::settle(PreparedCall& call, const py::tuple& args, const py::object& kwargs) {
  if (!call.new_sizes) return answer_here(call, args, kwargs);
  try {
    py::object result = answer_here(call, args, kwargs);
    call.kind->note_sizes(call.flat.leaves);
    return result;
  } catch (...) {
    call.kind->note_sizes(call.flat.leaves);
    throw;
  }
}

py::object BoundPredictor::answer_here(PreparedCall& call, const py::tuple& args, const py::object& kwargs) {
  if (!call.mismatch) return inline_.run(call, args, kwargs);
  const Answering here(*this, call);
  py::object result = learner_.settle_mismatch(call, args, kwargs);
  if (module_changed()) call.kind->mixed = true;
  return result;
}

// What the learner does after the module's own run, others need not wait for.
void BoundPredictor::ran_answering() {
  if (Answering* here = Answering::innermost(); here != nullptr && &here->predictor == this) {
    if (here->call.new_sizes) here->call.kind->note_sizes(here->call.flat.leaves);
    here->call.turn.reset();
  }
}

py::object BoundPredictor::run_queued(PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                                      const CallOptions& options) {
  const std::shared_ptr<Channel> channel = channels_.of(call);
  const auto request = requests_.make(call, args, kwargs, options, {}, Snapshot::kNone, *channel);
  requests_.admit(call, request, channel, Full::kByPolicy);
  wait_for(*request, channel, kNever);  // a deadline resolves the request itself
  return take_result(*request);
}

Pending BoundPredictor::submit(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                               const Notify& notify, Full full, bool may_put_off) {
  return submit(args, kwargs, options, notify, full, may_put_off, nullptr);
}

Pending BoundPredictor::submit(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                               const Notify& notify, Full full, bool may_put_off,
                               std::shared_ptr<const Likeness>* like) {
  const InPredictor in_predictor;
  look_at_gradients();
  PreparedCall call;
  read_in_turn(args, kwargs, options, call, nullptr, may_put_off);
  if (call.mismatch && settles_here(call, options)) return Pending(settle(call, args, kwargs));
  if (must_run_inline() || call.ambient.must_run_here || settles_here(call, options)) {
    try {
      return Pending(settles_here(call, options) ? settle(call, args, kwargs) : inline_.run(call, args, kwargs));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_Exception)) throw;  // an interrupt is the submitter's
      return Pending::failed(error.value());
    }
  }
  const std::shared_ptr<Channel> channel = channels_.of(call);
  auto request = requests_.make(call, args, kwargs, options, notify, Snapshot::kSmall, *channel);
  Pending pending(request, channel);
  if (like != nullptr && !options.deadline) *like = Likeness::of(call, *request, channel);
  // Before it is admitted: it may be done, and its object looked at, before this call returns.
  if (!notify.object.is_none()) notify.object.attr("_pending") = py::cast(pending);
  try {
    requests_.admit(call, request, channel, full);
  } catch (...) {
    if (request->try_withdraw()) request->forget_notified();
    throw;
  }
  return pending;
}

py::object BoundPredictor::start(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                                 bool line_up) {
  look_at_gradients();
  PreparedCall call;
  call.until = options.deadline.value_or(kNever);
  if (!reader_.try_read(args, kwargs, call) || call.learns_alone || call.route == Route::kLearning) return py::none();
  if (CallTurns::apply_here()) {
    call.turn = turns_.take(call);
    const bool learns = call.new_sizes && call.mismatch && !options.deadline;
    if (learns || !call.turn->open()) return py::cast(HandedTurn{std::move(call.turn)});
  }
  if (call.mismatch && settles_here(call, options)) return py::none();
  if (must_run_inline() || call.ambient.must_run_here) return awaited_result(inline_.run(call, args, kwargs));
  const std::shared_ptr<Channel>& channel = channels_.of(call);
  py::object awaited = new_awaited_call();
  AwaitedCall& pending = awaited_call(awaited);
  // Those that are lined up by a map have a bound of their own.
  pending.request = requests_.make(call, args, kwargs, options, {awaited, true},
                                   line_up ? Snapshot::kSmall : Snapshot::kIfRoom, *channel);
  pending.channel = channel;
  try {
    requests_.admit(call, pending.request, channel,
                    !line_up && requests_.rejects_when_full() ? Full::kReject : Full::kLineUp);
  } catch (...) {
    if (pending.request->try_withdraw()) pending.request->forget_notified();
    throw;
  }
  return awaited;
}

void BoundPredictor::learn_from(const py::tuple& args, const py::object& kwargs) {
  PreparedCall call;
  reader_.read(args, kwargs, call);
  if (!call.learns_alone) return;
  call = {};
  read_in_turn(args, kwargs, {}, call);
}

void BoundPredictor::settle_promise(std::int64_t id, const py::tuple& args, const py::object& kwargs, bool learn) {
  const std::shared_ptr<CallKind> kind = learner_.kinds().find(id);
  if (!kind) return;  // forgotten meanwhile
  if (kind->promised()) {
    learner_.learn_promised(*kind, args, kwargs, learn);
    FlatCall flat;
    flatten_call(args.ptr(), kwargs.is_none() ? nullptr : kwargs.ptr(), flat);
    kind->note_sizes(flat.leaves);
    if (module_changed()) kind->mixed = true;
    return;
  }
  if (!kind->widening) return;
  kind->widening = false;
  if (!learn) return;
  PreparedCall call;
  reader_.read(args, kwargs, call);
  if (!call.mismatch || call.kind != kind) return;
  learner_.widen(call, args, kwargs);
  if (module_changed()) kind->mixed = true;
}

void BoundPredictor::forget_learned() {
  while (!reader_.forget()) {
  }
}

py::object BoundPredictor::run_plain(const py::tuple& args, const py::object& kwargs) {
  try {
    py::object result = inline_.run_watched(reader_.watch(), args, kwargs);
    ran_answering();
    return result;
  } catch (...) {
    ran_answering();
    throw;
  }
}

bool BoundPredictor::serve(std::int64_t kind, std::int64_t number, const py::object& contract, const py::object& spec,
                           std::shared_ptr<graph::GraphBackend> graph, std::int64_t first_batch, std::int64_t max_batch,
                           bool by_module) {
  if (module_changed()) return false;  // the graph may be of another state of it
  const bool by_graph = graph && !by_module;
  if (by_graph ? !channels_.open_graph() : channels_.closed()) return false;
  if (!learner_.serve(kind, number, contract, spec, std::move(graph), by_module)) return false;
  if (by_graph) {
    channels_.set_graph_rows(first_batch, max_batch);
  } else {
    channels_.set_rows(first_batch, max_batch);
  }
  return true;
}

void BoundPredictor::weights_written() {
  graph::GraphBackend::count_update();
  learner_.weights_written();
  const Change change = reader_.watch().look();
  if (!change) return;
  learner_.retire_graphs();  // of calls that wait: they go on to the module
  reader_.states().clear();
  if (reader_.matters(change.kind)) learner_.overtake();
}

std::optional<MeasuredPredictor::RepeatedCall> BoundPredictor::repeated(const py::tuple& args,
                                                                        const py::object& kwargs) {
  PreparedCall call;
  reader_.read(args, kwargs, call);
  if (call.route != Route::kMerge || call.mismatch) return std::nullopt;
  RepeatedCall one;
  one.info = call.contract->request_info(call.flat.leaves, call.shape,
                                         call.graph ? 0 : merge_key(call.ambient, call.kind->context));
  one.info.padding_is_free = call.graph && call.graph->padding_is_free();
  one.contract = call.contract;
  one.backend = call.graph;
  one.form = call.kind->form;
  one.result_form = call.contract->result_form;
  for (const at::Tensor& leaf : call.flat.leaves) one.inputs.push_back(leaf.detach().clone());
  one.shape = call.shape;
  one.channel = channels_.of(call);
  return one;
}

MeasuredPredictor::Submitted BoundPredictor::submit_again(const RepeatedCall& call,
                                                          const std::shared_ptr<CallRequest>& request,
                                                          bool block) noexcept {
  try {
    call.channel->submit(request, block ? Admission::kBlock : Admission::kTry, kNever);
  } catch (const QueueFull&) {
    return Submitted::kRejected;
  } catch (const DeadlineExceeded&) {
    return Submitted::kExpired;
  } catch (const Closed&) {
    return Submitted::kClosed;
  }
  requests_.watch_deadline(request);
  return Submitted::kAdmitted;
}

py::dict BoundPredictor::stats() {
  learner_.tell_refuted();
  return stats_to_python(*stats_, channels_);
}

int BoundPredictor::traverse(visitproc visit, void* arg) const {
  if (stats_->resolved() != stats_->accepted.load(std::memory_order_relaxed)) return 0;
  if (const int stopped = learner_.traverse(visit, arg); stopped != 0) return stopped;
  if (const int stopped = channels_.traverse(visit, arg); stopped != 0) return stopped;
  if (const int stopped = reader_.traverse(visit, arg); stopped != 0) return stopped;
  return inline_.traverse(visit, arg);
}

}  // namespace torchpool
