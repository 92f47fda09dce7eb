#include "bindings/bound_predictor.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "bindings/contract_from_python.h"
#include "bindings/snapshot.h"
#include "core/error.h"
#include "predict/script_backend.h"
#include "predict/thread_scope.h"

namespace torchpool {

namespace {

MergeKey unmergeable_key() {
  static std::atomic<std::uint64_t> next{1};
  return {0, next.fetch_add(1, std::memory_order_relaxed)};
}

// What waited here could wait for itself.
bool must_run_inline() {
  return Runtime::on_worker_thread() || Resolver::on_resolver_thread() || InlineLease::held_by_this_thread();
}

}  // namespace

BoundPredictor::BoundPredictor(std::shared_ptr<BoundRuntime> runtime, py::object target, py::object learner,
                               const py::list& module_dicts, BoundPredictorOptions options,
                               std::shared_ptr<Backend> backend)
    : runtime_(std::move(runtime)),
      target_(std::move(target)),
      learner_(std::move(learner)),
      options_(std::move(options)),
      stats_(std::make_shared<ChannelStats>()),
      copies_(make_ref(learner_.attr("own"))),
      training_(module_dicts) {
  Runtime& core = runtime_->core();
  if (!backend) backend = std::make_shared<PythonBackend>(target_);
  handler_ = std::make_shared<Predictor>(std::move(backend), stats_, core.clock());
  handler_->set_max_rows(options_.max_batch);
  alone_ = std::make_shared<AloneHandler>(target_, learner_, stats_, core.clock());
  ChannelOptions channel;
  channel.name = options_.name;
  channel.limits = options_.limits;
  channel.lane = handler_->backend().lane();
  channel.max_rows = options_.max_batch;
  const GilRelease release;  // the lane's threads start now and may want the lock
  merge_ = core.open(channel, handler_, stats_);
  channel.lane = Lane::kInterpreter;
  channel.max_rows = 1;
  parallel_ = core.open(channel, alone_, stats_);
  channel.max_running = 1;
  serial_ = core.open(channel, alone_, stats_);
}

BoundPredictor::~BoundPredictor() {
  close(true);
  const GilRelease release;
  merge_.reset();
  parallel_.reset();
  serial_.reset();
}

void BoundPredictor::refuse_grad(const FlatCall& flat, const py::tuple& args, PyObject* kwargs) const {
  if (!at::GradMode::is_enabled()) return;
  for (std::size_t i = 0; i < flat.leaves.size(); ++i) {
    if (!flat.leaves[i].requires_grad()) continue;
    const auto names = make_form(args.ptr(), kwargs, nullptr)->names();
    const auto name = i < names.size() ? learner_.attr("readable")(names[i]).cast<std::string>() : "?";
    throw py::type_error("input '" + name +
                         "' requires grad, but a predictor computes no gradients: call it under torch.no_grad(), or "
                         "pass its detach()");
  }
}

const std::shared_ptr<Channel>& BoundPredictor::channel_of(Route route) const noexcept {
  if (route == Route::kMerge) return merge_;
  return route == Route::kParallel ? parallel_ : serial_;
}

// False when the call is of a kind that nothing is known of.
bool BoundPredictor::take_apart(const py::tuple& args, const py::object& kwargs, Prepared& call) {
  if (closed_) throw Closed("predictor '" + options_.name + "' is closed");
  if (runtime_->closed()) throw Closed("the runtime of predictor '" + options_.name + "' is closed");
  GilReclaimer::instance().drain();
  if (training_.changed()) {  // what was proven in one mode says nothing of the other
    learner_.attr("forget")();
    training_ = TrainingWatch(py::list(learner_.attr("watched")()));
    forget_learned();
  }
  PyObject* named = kwargs.is_none() ? nullptr : kwargs.ptr();
  flatten_call(args.ptr(), named, call.flat);
  refuse_grad(call.flat, args, named);
  call.ambient = capture_ambient();
  const auto& leaves = call.flat.leaves;
  if (!call.flat.opaque.empty() && opaque_seen_.size() < VariantTable::kMaxVariants &&
      opaque_seen_.insert(call.flat.opaque).second) {
    learner_.attr("saw_opaque")(call.flat.opaque);
  }
  if (!call.flat.opaque.empty() || leaves.empty() || call.ambient.must_run_here) return true;
  call.variant = variants_.find_or_add(call.flat, call.ambient.torch_key, args.ptr(), named, schema());
  if (!call.variant) return true;
  if (call.variant->route == Route::kUnknown) {
    // Empty tensors tell nothing of rows: answered by the model, learned from the next call.
    if (std::none_of(leaves.begin(), leaves.end(), [](const at::Tensor& leaf) { return leaf.numel() == 0; })) {
      return false;
    }
    call.variant = nullptr;
    return true;
  }
  call.route = call.variant->route;
  if (call.route == Route::kMerge) call.mismatch = call.variant->contract->fit(leaves, call.shape);
  return true;
}

void BoundPredictor::prepare(const py::tuple& args, const py::object& kwargs, Prepared& call) {
  for (;;) {
    if (!take_apart(args, kwargs, call)) learn(*call.variant, args, kwargs);
    if (!call.variant || call.variant->route != Route::kLearning) break;
    // A module with buffers must not be run while another thread probes it, or its state would be lost.
    const bool own = call.variant->learning_thread == PyThread_get_thread_ident();
    if (own || must_run_inline() || !learner_.attr("may_have_state")().cast<bool>()) return;
    while (call.variant->route == Route::kLearning) {
      {
        const GilRelease release;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
  }
  if (!call.variant) return;
  call.route = call.variant->route;
  if (call.route == Route::kMerge) call.mismatch = call.variant->contract->fit(call.flat.leaves, call.shape);
}

const c10::FunctionSchema* BoundPredictor::schema() const {
  const auto* script = dynamic_cast<const ScriptBackend*>(&handler_->backend());
  return script == nullptr ? nullptr : &script->schema();
}

void BoundPredictor::install(Variant& variant, const py::tuple& learned) {
  const auto route = route_from_string(learned[0].cast<std::string>());
  variant.aliases = learned[3].cast<bool>();
  if (route == Route::kMerge) variant.contract = contract_from_python(learned[1]);
  if (!learned[2].is_none()) {
    const bool bare = learned[2].attr("is_single_tensor").cast<bool>();
    variant.result_form = std::make_shared<const PyResultForm>(bare ? nullptr : make_ref(learned[2]));
  }
  variant.route = route;
}

void BoundPredictor::learn(Variant& variant, const py::tuple& args, const py::object& kwargs) {
  variant.route = Route::kLearning;
  variant.learning_thread = PyThread_get_thread_ident();
  try {
    install(variant, learner_.attr("learn")(variant.id, variant.form->names(), args, kwargs));
  } catch (...) {
    variant.route = Route::kUnknown;  // for those who wait; they learn it from their own calls
    variants_.remove(variant);
    throw;
  }
}

// A call that departs from what earlier ones had in common. The learner runs it through the module itself: if the
// module takes it, the answer is right and the contract may be widened; if not, the caller gets a typed error.
py::object BoundPredictor::settle_mismatch(Prepared& call, const py::tuple& args, const py::object& kwargs) {
  stats_->accepted.fetch_add(1, std::memory_order_relaxed);
  stats_->inlined.fetch_add(1, std::memory_order_relaxed);
  // Counted as failed until it has not.
  stats_->failed.fetch_add(1, std::memory_order_relaxed);
  const Mismatch& mismatch = *call.mismatch;
  const bool is_length = mismatch.kind == Mismatch::Kind::kFixedDim;
  const auto settled = py::tuple(learner_.attr("mismatch")(call.variant->id, call.variant->form->names(), args, kwargs,
                                                           mismatch.message, is_length));
  stats_->failed.fetch_sub(1, std::memory_order_relaxed);
  stats_->succeeded.fetch_add(1, std::memory_order_relaxed);
  if (!settled[1].is_none()) install(*call.variant, settled[1]);
  return settled[0];
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

py::object BoundPredictor::run_plain(const py::tuple& args, const py::object& kwargs) {
  py::object result = try_plain(args, kwargs);
  if (!result) throw py::error_already_set();
  return result;
}

void BoundPredictor::refuse(const Prepared& call, const py::tuple& args, const py::object& kwargs) {
  if (call.flat.opaque.empty() && !call.flat.leaves.empty()) throw py::error_already_set();
  const py::error_already_set own;
  const py::object named = kwargs.is_none() ? py::dict() : kwargs;
  const py::object error = typed_refusal(learner_, own.value(), call.flat.opaque, args, named);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
  throw py::error_already_set();
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
    info = call.variant->contract->request_info(call.flat.leaves, call.shape, call.ambient.merge_key);
  } else {
    info.key = unmergeable_key();
    for (const at::Tensor& leaf : call.flat.leaves) info.bytes += static_cast<std::int64_t>(leaf.nbytes());
  }
  info.priority = options.priority;
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
  const Admission admission = must_run_inline() ? Admission::kBypass : rejects ? Admission::kReject : Admission::kBlock;
  // With room, without letting go of the interpreter's lock: a release at each of a thousand submits would hand it to
  // a worker, and wait to get it back, a thousand times.
  PushResult pushed = channel.submit(request, admission, TimePoint::min());
  while (pushed != PushResult::kAdmitted) {
    {
      const GilRelease release;
      pushed = channel.submit(request, admission, slices ? signal_slice() : kNever);
    }
    if (pushed != PushResult::kAdmitted && PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
  if (request->info.deadline != kNever) runtime_->core().watch_deadline(request);
}

py::object BoundPredictor::run_queued(Prepared& call, const py::tuple& args, const py::object& kwargs,
                                      const CallOptions& options) {
  const std::shared_ptr<Channel> channel = channel_of(call.route);
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
  // Nothing runs or waits: handing the call over would only cost. It has all cores, as a lone call should.
  if (runtime_->inline_allowed()) {
    if (const InlineLease lease = runtime_->core().try_inline(*channel_of(call.route))) {
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
  const std::shared_ptr<Channel> channel = channel_of(call.route);
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

void BoundPredictor::set_max_batch(std::int64_t rows) {
  options_.max_batch = rows;
  merge_->set_max_rows(rows);
  handler_->set_max_rows(rows);
}

void BoundPredictor::close(bool fail_waiting) noexcept {
  closed_ = true;
  const GilRelease release;
  merge_->close(fail_waiting);
  parallel_->close(fail_waiting);
  serial_->close(fail_waiting);
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
  for (const auto& channel : {merge_, parallel_, serial_}) {
    if (!waited(*channel, &Channel::wait_drained)) return false;
  }
  // Their futures are settled a moment later, by a resolver, which cannot wait for itself.
  return Resolver::on_resolver_thread() || waited(*unnotified_, &Unnotified::wait_none);
}

void BoundPredictor::learn_from(const py::tuple& args, const py::object& kwargs) {
  Prepared call;
  prepare(args, kwargs, call);
}

bool BoundPredictor::is_known(const py::tuple& args, const py::object& kwargs) {
  Prepared call;
  return take_apart(args, kwargs, call) && !call.mismatch && call.route != Route::kLearning;
}

void BoundPredictor::forget_learned() {
  variants_.clear();
}

}  // namespace torchpool
