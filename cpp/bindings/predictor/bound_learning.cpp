// What a predictor knows of its calls, and how it comes to know it.
#include <algorithm>
#include <chrono>
#include <thread>

#include "bindings/predictor/bound_predictor.h"
#include "bindings/predictor/contract_from_python.h"
#include "core/sync/error.h"
#include "predict/backends/script_backend.h"

namespace torchpool {

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

void BoundPredictor::check_open() const {
  if (closed_) throw Closed("predictor '" + options_.name + "' is closed");
  if (runtime_->closed()) throw Closed("the runtime of predictor '" + options_.name + "' is closed");
}

// False when the call is of a kind that nothing is known of.
bool BoundPredictor::take_apart(const py::tuple& args, const py::object& kwargs, Prepared& call) {
  check_open();
  GilReclaimer::instance().drain();
  if (const Change change = watch_.look()) {
    watch_.rebase();
    // What was proven of the module as it was says nothing of what it is now. Attributes are another matter where the
    // module itself is called: many modules write some of theirs in forward, and nearly none decide how rows mix.
    if (change.kind != ChangeKind::kAttribute || options_.by_graph) {
      learner_.attr("forget")();
      forget_learned();
    }
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
  fit(call);
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
  if (call.variant) fit(call);
}

void BoundPredictor::fit(Prepared& call) {
  call.route = call.variant->route;
  call.graph = nullptr;
  if (call.route != Route::kMerge) return;
  call.mismatch = call.variant->contract->fit(call.flat.leaves, call.shape);
  // A graph was captured under the plain torch state. It runs no Python, so that no context variable reaches it.
  if (call.ambient.torch_key != 0 || !call.variant->graph) return;
  if (call.variant->graph->form_change() == WeightChange::kSame) {
    call.graph = call.variant->graph;
    return;
  }
  call.variant->graph.reset();  // its weights lie elsewhere now, or are of another kind
  learner_.attr("weights_moved")(call.variant->id);
}

const c10::FunctionSchema* BoundPredictor::schema() const {
  const auto* script = dynamic_cast<const ScriptBackend*>(&handler_->backend());
  return script == nullptr ? nullptr : &script->schema();
}

void BoundPredictor::install(Variant& variant, const py::tuple& learned) {
  const auto number = learned[4].cast<std::int64_t>();
  if (number < variant.learned_number) return;  // another thread has learned more meanwhile
  variant.learned_number = number;
  const auto route = route_from_string(learned[0].cast<std::string>());
  variant.aliases = learned[3].cast<bool>();
  variant.graph.reset();
  variant.learned = learned[1];
  if (route == Route::kMerge) variant.contract = contract_from_python(learned[1]);
  if (!learned[2].is_none()) {
    const bool bare = learned[2].attr("is_single_tensor").cast<bool>();
    variant.result_form = std::make_shared<const PyResultForm>(bare ? nullptr : make_ref(learned[2]));
  }
  variant.route = route;
  if (options_.by_graph) learner_.attr("installed")(variant.id, number);  // its graph may be captured now
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

void BoundPredictor::refuse(const Prepared& call, const py::tuple& args, const py::object& kwargs) {
  if (call.flat.opaque.empty() && !call.flat.leaves.empty()) throw py::error_already_set();
  const py::error_already_set own;
  const py::object named = kwargs.is_none() ? py::dict() : kwargs;
  const py::object error = typed_refusal(learner_, own.value(), call.flat.opaque, args, named);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
  throw py::error_already_set();
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
