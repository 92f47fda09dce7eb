#include "bindings/predictor/bound_learner.h"

#include "bindings/predictor/contract_from_python.h"
#include "bindings/predictor/python_backend.h"

namespace torchpool {

BoundLearner::BoundLearner(py::object learner, bool by_graph, std::shared_ptr<ChannelStats> stats)
    : learner_(std::move(learner)),
      by_graph_(by_graph),
      stats_(std::move(stats)),
      own_(make_ref(learner_.attr("own"))) {}

void BoundLearner::install(CallKind& kind, const py::tuple& learned) {
  const auto number = learned[4].cast<std::int64_t>();
  if (number < kind.learned_number) return;  // another thread has learned more meanwhile
  kind.learned_number = number;
  const auto route = route_from_string(learned[0].cast<std::string>());
  kind.aliases = learned[3].cast<bool>();
  kind.graph.reset();
  kind.learned = learned[1];
  if (route == Route::kMerge) kind.contract = contract_from_python(learned[1]);
  if (!learned[2].is_none()) {
    const bool bare = learned[2].attr("is_single_tensor").cast<bool>();
    kind.result_form = std::make_shared<const PyResultForm>(bare ? nullptr : make_ref(learned[2]));
  }
  kind.route = route;
  if (by_graph_) learner_.attr("installed")(kind.id, number);  // its graph may be captured now
}

void BoundLearner::learn(CallKind& kind, const py::tuple& args, const py::object& kwargs) {
  kind.route = Route::kLearning;
  kind.learning_thread = PyThread_get_thread_ident();
  try {
    install(kind, learner_.attr("learn")(kind.id, kind.form->names(), args, kwargs));
  } catch (...) {
    kind.route = Route::kUnknown;  // for those who wait; they learn it from their own calls
    kinds_.remove(kind);
    throw;
  }
}

py::object BoundLearner::settle_mismatch(const PreparedCall& call, const py::tuple& args, const py::object& kwargs) {
  stats_->accepted.fetch_add(1, std::memory_order_relaxed);
  stats_->inlined.fetch_add(1, std::memory_order_relaxed);
  // Counted as failed until it has not.
  stats_->failed.fetch_add(1, std::memory_order_relaxed);
  const Mismatch& mismatch = *call.mismatch;
  const bool is_length = mismatch.kind == Mismatch::Kind::kFixedDim;
  const auto settled = py::tuple(
      learner_.attr("mismatch")(call.kind->id, call.kind->form->names(), args, kwargs, mismatch.message, is_length));
  stats_->failed.fetch_sub(1, std::memory_order_relaxed);
  stats_->succeeded.fetch_add(1, std::memory_order_relaxed);
  if (!settled[1].is_none()) install(*call.kind, settled[1]);
  return settled[0];
}

void BoundLearner::refuse(const PreparedCall& call, const py::tuple& args, const py::object& kwargs) const {
  if (call.flat.opaque.empty() && !call.flat.leaves.empty()) throw py::error_already_set();
  const py::error_already_set own;
  const py::object named = kwargs.is_none() ? py::dict() : kwargs;
  const py::object error = typed_refusal(learner_, own.value(), call.flat.opaque, args, named);
  set_raised(error.ptr());
  throw py::error_already_set();
}

void BoundLearner::forget_kinds() {
  kinds_.clear();
}

void BoundLearner::forget() {
  learner_.attr("forget")();
  forget_kinds();
}

std::string BoundLearner::readable(const std::string& name) const {
  return learner_.attr("readable")(name).cast<std::string>();
}

}  // namespace torchpool
