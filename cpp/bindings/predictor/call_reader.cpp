#include "bindings/predictor/call_reader.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "bindings/interpreter/waiting.h"
#include "bindings/predictor/call_turns.h"
#include "core/sync/error.h"
#include "predict/weights/probed_weights.h"

namespace torchpool {

namespace {

constexpr std::uint64_t kMostPutOff = 10'000;  // calls, however short, before their kind is learned

}  // namespace

CallReader::CallReader(const py::list& modules, bool by_graph, bool invariant, BoundLearner& learner,
                       const PredictorChannels& channels)
    : by_graph_(by_graph),
      invariant_(invariant),
      learner_(learner),
      channels_(channels),
      watch_(modules),
      states_(learner) {}

void CallReader::refuse_grad(const FlatCall& flat, const py::tuple& args, PyObject* kwargs) const {
  if (!at::GradMode::is_enabled()) return;
  for (std::size_t i = 0; i < flat.leaves.size(); ++i) {
    if (!flat.leaves[i].requires_grad()) continue;
    const auto names = make_form(args.ptr(), kwargs, nullptr)->names();
    const auto name = i < names.size() ? learner_.readable(names[i]) : "?";
    throw py::type_error("input '" + name +
                         "' requires grad, but a predictor computes no gradients: call it under torch.no_grad(), or "
                         "pass its detach()");
  }
}

// Until the change is accepted every thread sees it, and forgets before it is served. Calls that wait for the end of an
// update are not to read its weights by a graph of the module as it was; at other times they may as well.
bool CallReader::forget() {
  forgotten_ = true;
  if (channels_.gate()->closed()) learner_.retire_graphs();
  states_.clear();
  return learner_.forget([this] {
    watch_.rebase();
    begin_unlearned();
  });
}

bool CallReader::try_read(const py::tuple& args, const py::object& kwargs, PreparedCall& call, bool may_put_off,
                          bool alone) {
  channels_.check_open();
  GilReclaimer::instance().drain();
  // What was proven of the module as it was says nothing of what it is now. Attributes are another matter where the
  // module itself is called: many modules write some of theirs in forward, and nearly none decide how rows mix.
  // A module that sets hooks for a run of its own is looked at between runs; no graph serves it.
  const bool known_state =
      channels_.gate()->model_in_flux() || states_.follow(watch_, by_graph_, channels_.gate()->closed()) || invariant_;
  PyObject* named = kwargs.is_none() ? nullptr : kwargs.ptr();
  flatten_call(args.ptr(), named, call.flat);
  refuse_grad(call.flat, args, named);
  call.ambient = capture_ambient();
  const auto& leaves = call.flat.leaves;
  if (!call.flat.opaque.empty() && opaque_seen_.size() < CallKinds::kMaxKinds &&
      opaque_seen_.insert(call.flat.opaque).second) {
    learner_.saw_opaque(call.flat.opaque);
  }
  if (!known_state || !call.flat.opaque.empty() || leaves.empty() || call.ambient.must_run_here) {
    fit_no_kind(call, known_state);
    return true;
  }
  std::shared_ptr<CallKind> evicted;
  call.kind = learner_.kinds().find_or_add(call.flat, call.ambient.torch_key, args.ptr(), named,
                                           channels_.script_schema(), evicted);
  if (evicted) learner_.evicted(*evicted);
  if (!call.kind) {
    fit_no_kind(call);
    return true;
  }
  if (call.kind->learn_again != kNever && call.kind->learn_again <= Clock::steady().now() && !must_run_inline()) {
    call.kind->learn_again = kNever;
    call.kind->route = Route::kUnknown;
  }
  if (invariant_ && lost_its_graph(*call.kind)) call.kind->route = Route::kUnknown;
  if (call.kind->put_off > Duration::zero() && CallTurns::apply_here()) {
    const bool still = may_put_off && call.kind->put_off_still() && call.kind->used < kMostPutOff;
    if (!still && !alone && call.kind->has_state->load() == HasState::kYes) {
      call.learns_alone = true;  // it would be probed beside calls that change what it is put back to
      fit(call);
      return true;
    }
    if (!still) learner_.put_off_ends(*call.kind);
  }
  if (call.kind->route == Route::kUnknown) {
    // Empty tensors tell nothing of rows: answered by the model, learned from the next call.
    if (std::none_of(leaves.begin(), leaves.end(), [](const at::Tensor& leaf) { return leaf.numel() == 0; })) {
      if (learner_.learns_by_runs()) return false;
      learner_.learn(*call.kind, args, kwargs);
      if (watch_.look()) call.kind->mixed = true;
      fit(call);
      return true;
    }
    fit_no_kind(call);
    return true;
  }
  fit(call);
  return true;
}

void CallReader::read(const py::tuple& args, const py::object& kwargs, PreparedCall& call,
                      std::optional<TimePoint> deadline, bool may_put_off, bool alone) {
  const CallKind* promised = nullptr;
  for (;;) {
    bool known = try_read(args, kwargs, call, may_put_off, alone);
    if (call.learns_alone) return;
    // A module that turns out to be another one would be put off for ever.
    forgotten_ = forgotten_ || states_.changes() > 0;
    if (!known && may_put_off && !forgotten_ && CallTurns::apply_here()) {
      if (learner_.put_off(*call.kind, args, kwargs)) return fit(call);
      if (call.kind->route != Route::kUnknown) continue;  // another thread has begun to learn it meanwhile
    }
    if (!known && deadline && !must_run_inline()) {
      call.promise = LearnPromise::to_learn(learner_, call);
      if (learner_.answers_unlearned()) {
        call.route = Route::kLearning;
        return;
      }
      call.promise->keep(py::none());
      call.promise.reset();
      promised = call.kind.get();
      known = call.kind->route == Route::kLearning;
    }
    if (!known) {
      learner_.learn(*call.kind, args, kwargs);
      // What was learned of the module as it was is of no use to this call either.
      if (!learner_.kinds().find(call.kind->id)) continue;
      if (watch_.look()) call.kind->mixed = true;
      call.kind->note_sizes(call.flat.leaves);  // it was run with them to learn from
    }
    if (!call.kind || call.kind->route != Route::kLearning) {
      if (!known) fit(call);
      if (!invariant_ || !call.kind || call.route != Route::kLearning) return;
      settle(call, args, kwargs, deadline);
      continue;
    }
    const bool own = call.kind->learning_thread == PyThread_get_thread_ident();
    if (own || (must_run_inline() && !invariant_)) return;
    // A module with buffers must not be run while another thread probes it, or its state would be lost; nor any before
    // its first run has told what it does, or it is known that calls stay on their threads.
    const bool to_the_end = invariant_ || promised == call.kind.get() || reads_thread_state();
    if (!to_the_end && !learner_.may_have_state()) return;
    wait_until_learned(*call.kind, deadline.value_or(kNever), to_the_end);
    if (to_the_end && call.kind->failure) {
      set_raised(borrow(call.kind->failure).ptr());
      throw py::error_already_set();
    }
  }
}

void CallReader::wait_until_learned(const CallKind& kind, TimePoint deadline, bool to_the_end) const {
  while (kind.route == Route::kLearning && (to_the_end || learner_.may_have_state())) {
    if (Clock::steady().now() >= deadline) {
      throw DeadlineExceeded("the deadline of the call passed while the model was being learned");
    }
    sleep_a_moment();
  }
}

void CallReader::wait_for_first_run(PreparedCall& call) const {
  while (call.look && learner_.first_run_under_way()) {
    sleep_a_moment();
    if (call.kind) {
      find_route(call);
    } else {
      find_direct_route(call, has_state_);
    }
  }
}

void CallReader::sleep_a_moment() {
  {
    const GilRelease release;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// What the module runs by itself: it may change itself at sizes that are new to it (a table that grows).
void CallReader::fit(PreparedCall& call) const {
  find_route(call);
  if (call.route == Route::kCaller) call.ambient.must_run_here = true;
  const bool by_module = call.mismatch || call.route == Route::kParallel;
  call.new_sizes = by_module && call.kind->has_new_sizes(call.flat.leaves);
  if (call.look) call.kind->note_sizes(call.flat.leaves);  // it runs in order as it is
  if (invariant_ && is_unsettled(call)) {
    call.route = Route::kLearning;
    call.new_sizes = false;
  }
}

void CallReader::find_route(PreparedCall& call) const {
  CallKind& kind = *call.kind;
  call.look = nullptr;
  call.route = kind.route;
  if (call.route == Route::kDirect) find_direct_route(call, kind.has_state);
  call.graph = nullptr;
  call.mismatch.reset();
  if (call.route != Route::kMerge) return;
  call.contract = kind.contract;
  if (call.contract->padded_with) call.contract->padded_with->look_at_form();
  call.mismatch = call.contract->fit(call.flat.leaves, call.shape);
  if (call.mismatch) return;
  if (!merges(kind, call)) {
    call.route = Route::kParallel;
    return;
  }
  if (takes(kind, call)) {
    if (!kind.by_module) call.graph = kind.graph;
  } else if (kind.by_graph_only) {
    call.route = Route::kParallel;
  }
}

// The module is another one.
void CallReader::begin_unlearned() {
  reads_thread_state_.reset();
  has_state_ = std::make_shared<std::atomic<HasState>>(HasState::kUnknown);
}

bool CallReader::reads_thread_state() {
  if (!reads_thread_state_) reads_thread_state_ = learner_.reads_thread_state();
  return *reads_thread_state_;
}

void CallReader::fit_no_kind(PreparedCall& call, bool known_state) {
  call.kind = nullptr;
  call.look = nullptr;
  call.route = known_state ? Route::kDirect : Route::kUnknown;
  if (call.ambient.must_run_here) return;
  if (known_state && changes_ != states_.changes()) {
    changes_ = states_.changes();
    begin_unlearned();
  }
  if (reads_thread_state()) {
    call.route = Route::kCaller;
    call.ambient.must_run_here = true;
  } else if (known_state) {
    find_direct_route(call, has_state_);
  }
}

void CallReader::find_direct_route(PreparedCall& call, const std::shared_ptr<std::atomic<HasState>>& has_state) const {
  call.route = Route::kDirect;
  call.look = nullptr;
  if (!learner_.looks_for_state()) return;
  const HasState seen = has_state->load(std::memory_order_relaxed);
  call.route = seen == HasState::kNo ? Route::kParallel : Route::kSerial;
  if (seen == HasState::kUnknown) call.look = has_state;
}

// Whether the kind's graph holds for the call. One that is run was captured under the plain torch state; it runs no
// Python, so that no context variable reaches it. One that the module runs for was captured under the kind's own state.
bool CallReader::takes(CallKind& kind, const PreparedCall& call) const {
  if (!kind.graph || (call.ambient.torch_key != 0 && !kind.by_module)) return false;
  if (kind.graph->form_change() == WeightChange::kSame) return kind.graph->takes(*call.contract, call.flat.leaves);
  // Its weights lie elsewhere now, or are of another sort: not for calls that wait, either.
  kind.graph->retire();
  kind.graph.reset();
  learner_.weights_moved(kind);
  return false;
}

bool CallReader::is_unsettled(const PreparedCall& call) const {
  const CallKind& kind = *call.kind;
  if (kind.settling_thread != 0) return kind.settling_thread != PyThread_get_thread_ident();
  return call.mismatch && call.mismatch->kind == Mismatch::Kind::kFixedDim && kind.widens;
}

void CallReader::settle(PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                        std::optional<TimePoint> deadline) {
  CallKind& kind = *call.kind;
  if (deadline && Clock::steady().now() >= *deadline) {
    throw DeadlineExceeded("the deadline of the call passed while it was learned how to serve calls of its size");
  }
  if (kind.settling_thread == 0 && deadline && !must_run_inline()) {
    if (auto promise = LearnPromise::to_widen(learner_, call)) promise->keep(py::none());
  }
  if (kind.settling_thread != 0 || (deadline && !must_run_inline())) return sleep_a_moment();
  const SettlingThread here(kind);
  learner_.widen(call, args, kwargs);
  if (watch_.look()) kind.mixed = true;
}

bool CallReader::lost_its_graph(CallKind& kind) {
  if (kind.route != Route::kMerge || !kind.graph || kind.graph->form_change() == WeightChange::kSame) return false;
  kind.graph->retire();
  kind.graph.reset();
  return true;
}

bool CallReader::merges(CallKind& kind, const PreparedCall& call) const {
  return !learner_.tell_if_refuted(kind) && kind.merges && call.contract->may_share(call.shape);
}

}  // namespace torchpool
