// What a predictor in a forked child has from its parent's: see Note [A child has one thread].
#include "bindings/predictor/bound_predictor.h"

namespace torchpool {

namespace {

constexpr const char* kRefuted = "rows of a batch differed from the same calls alone, in the parent process";

// Reads nothing that is written without the interpreter's lock: a thread that is gone may have been writing it. Null
// for a kind that was being learned, or whose weights have moved.
std::shared_ptr<CallKind> copy_of(const CallKind& parents, const BoundLearner& learner) {
  if (parents.route == Route::kUnknown || parents.route == Route::kLearning) return nullptr;
  if (parents.put_off > Duration::zero()) return nullptr;
  if (parents.graph && parents.graph->form_change() != WeightChange::kSame) return nullptr;
  auto kind = std::make_shared<CallKind>(parents);
  kind->widening = false;  // by a thread that is gone
  kind->settling = 0;
  kind->refutation = std::make_shared<Refutation>();
  if (parents.refutation->refuted()) kind->refutation->refute(kRefuted);
  if (parents.contract) {
    const auto contract = std::make_shared<Contract>(*parents.contract);
    contract->overtaken = learner.overtaken();
    if (const auto& verifier = parents.contract->verifier) {
      contract->verifier = learner.make_verifier(*kind, verifier->proven() ? Merging::kNo : Merging::kVerify);
    }
    kind->contract = contract;
  }
  if (parents.graph) {
    const GilRelease release;  // its weights may have to be packed
    kind->graph = parents.graph->made_anew();
    if (kind->by_module) kind->graph->drop_packed();
  }
  return kind;
}

}  // namespace

py::dict BoundPredictor::inherit(BoundPredictor& parents) {
  py::dict graphs;
  if (parents.reader_.watch().look()) return graphs;  // what was learned is of the module as it was before
  for (const auto& theirs : parents.learner_.kinds().all()) {
    const std::shared_ptr<CallKind> kind = copy_of(*theirs, learner_);
    if (!kind) continue;
    if (kind->graph && !kind->by_module && !channels_.open_graph()) continue;
    learner_.kinds().add(kind);
    if (kind->graph) learner_.add_served(kind->graph);
    graphs[py::int_(kind->id)] = kind->graph ? py::cast(kind->graph) : py::none();
  }
  return graphs;
}

}  // namespace torchpool
