// Holds what is known of each kind of call, and asks Python's learner where that is not enough.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "bindings/predictor/prepared_call.h"
#include "core/schedule/stats.h"

namespace torchpool {

// Every method requires the interpreter's lock.
class BoundLearner {
 public:
  // `learner` answers for calls of an unknown kind: learn(kind, names, args, kwargs) and mismatch(kind, ...).
  // `by_graph`: it is told what it may capture.
  // `verify`: the share of batches' time that may be spent on comparing them with the same calls alone.
  BoundLearner(py::object learner, bool by_graph, double verify, std::shared_ptr<ChannelStats> stats);

  CallKinds& kinds() noexcept { return kinds_; }
  void learn(CallKind& kind, const py::tuple& args, const py::object& kwargs);
  // A call that departs from what earlier ones had in common. The learner runs it through the module itself: if the
  // module takes it, the answer is right and the contract may be widened; if not, the caller gets a typed error.
  py::object settle_mismatch(const PreparedCall& call, const py::tuple& args, const py::object& kwargs);
  // Raises for a call that the module refused with the Python error that is set.
  [[noreturn]] void refuse(const PreparedCall& call, const py::tuple& args, const py::object& kwargs) const;
  // From now on calls of this kind are merged under `contract`, which is the graph's where there is one; `by_module`:
  // the module runs what the graph takes. False when `number` is not what was learned last. Raises ValueError where
  // nothing proves the rows independent, unless the user wants calls merged all the same.
  bool serve(std::int64_t kind, std::int64_t number, const py::object& contract, const py::object& spec,
             std::shared_ptr<graph::GraphBackend> graph, bool by_module);
  // Whether the kind's batches were found to differ from the same calls alone. It then never merges again, and the
  // learner hears of it once. A worker that finds it out has no lock to say so.
  bool tell_if_refuted(CallKind& kind) const;
  void tell_refuted() const;
  void forget_kinds();
  // The same, and the learner forgets too: the module is another one now.
  void forget();

  // A result with all its tensors copied.
  py::object own(const py::object& result) const { return learner_.attr("own")(result); }
  const PyRef& own_function() const noexcept { return own_; }
  // An argument's name as an error message has it.
  std::string readable(const std::string& name) const;
  void saw_opaque(const OpaqueArgument& argument) const { learner_.attr("saw_opaque")(argument.path, argument.type); }
  void weights_moved(const CallKind& kind) const { learner_.attr("weights_moved")(kind.id); }
  bool may_have_state() const { return learner_.attr("may_have_state")().cast<bool>(); }

 private:
  void install(CallKind& kind, const py::tuple& learned);
  std::shared_ptr<Verifier> make_verifier(const CallKind& kind, Merging merging) const;

  py::object learner_;
  const bool by_graph_;
  const double verify_;
  std::shared_ptr<ChannelStats> stats_;
  PyRef own_;
  CallKinds kinds_;
};

}  // namespace torchpool
