// Holds what is known of each kind of call, and asks Python's learner where that is not enough.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bindings/graph/module_state.h"
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
  // The same for a kind that was promised to be learned or widened. `learn` false: it will not be.
  void learn_promised(CallKind& kind, const py::tuple& args, const py::object& kwargs, bool learn);
  // A call that departs from what earlier ones had in common. The learner runs it through the module itself: if the
  // module takes it, the answer is right and the contract may be widened; if not, the caller gets a typed error.
  py::object settle_mismatch(const PreparedCall& call, const py::tuple& args, const py::object& kwargs);
  // The same for a promise, which has had the call answered.
  void widen(const PreparedCall& call, const py::tuple& args, const py::object& kwargs);
  // Raises for a call that the module refused with the Python error that is set.
  [[noreturn]] void refuse(const PreparedCall& call, const py::tuple& args, const py::object& kwargs) const;
  // From now on calls of this kind are merged under `contract`, which is the graph's where there is one; `by_module`:
  // the module runs what the graph takes. False when `number` is not what was learned last. Raises ValueError where
  // nothing proves the rows independent, unless the user wants calls merged all the same.
  bool serve(std::int64_t kind, std::int64_t number, const py::object& contract, const py::object& spec,
             std::shared_ptr<graph::GraphBackend> graph, bool by_module);
  // Has the kind learned anew by its first call after so many seconds. Nothing when `number` is not what was learned
  // last.
  void learn_again(std::int64_t kind, std::int64_t number, double seconds) const;
  // Whether the kind's batches were found to differ from the same calls alone. It then never merges again, and the
  // learner hears of it once. A worker that finds it out has no lock to say so.
  bool tell_if_refuted(CallKind& kind) const;
  void tell_refuted() const;
  // What the learner knows, for what it is to know instead; None: nothing.
  py::object exchange_memory(const py::object& memory) { return learner_.attr("exchange")(kinds_.next_id(), memory); }
  // The module has been in its present state for some calls, and may stay in it.
  void state_rests() const {
    if (by_graph_) learner_.attr("state_rests")();
  }
  // Graphs that have served read the weights anew; those whose weights lie elsewhere now serve no call any more.
  void weights_written();
  std::vector<std::shared_ptr<graph::GraphBackend>> graphs() const;  // that serve
  // No graph of before serves a call any more.
  void retire_graphs();
  // A graph begins to serve. Calls that wait may keep it for longer than its kind does.
  void add_served(const std::shared_ptr<graph::GraphBackend>& graph);
  using Overtaken = std::shared_ptr<std::atomic<bool>>;
  // The module has changed: calls that wait share no batch of it under the contracts of now, which are known by what is
  // returned. `next`: of the contracts that hold instead.
  Overtaken overtake(Overtaken next = std::make_shared<std::atomic<bool>>(false));
  // Of the contracts of now.
  const Overtaken& overtaken() const noexcept { return overtaken_; }
  // Nothing known holds any more: `accept`, which runs no Python code, is called at the moment from which on nobody is
  // served by it. False, without that, if other threads have got to know of more kinds meanwhile.
  bool forget(const std::function<void()>& accept);
  // Whether the module's own code can have made such a change of the module.
  bool own_change(const Difference& difference) const noexcept;

  // Of batches under a contract of the kind; null where nobody looks at them.
  std::shared_ptr<Verifier> make_verifier(const CallKind& kind, Merging merging) const;

  // What it refers to, for the cycle collector.
  int traverse(visitproc visit, void* arg) const;

  // A result with all its tensors copied.
  py::object own(const py::object& result) const { return learner_.attr("own")(result); }
  const PyRef& own_function() const noexcept { return own_; }
  // An argument's name as an error message has it.
  std::string readable(const std::string& name) const;
  void saw_opaque(const OpaqueArgument& argument) const { learner_.attr("saw_opaque")(argument.path, argument.type); }
  void evicted(const CallKind& kind) const { learner_.attr("evicted")(kind.id); }
  void weights_moved(const CallKind& kind) const { learner_.attr("weights_moved")(kind.id); }
  bool may_have_state() const { return learner_.attr("may_have_state")().cast<bool>(); }
  // Whether a call may be answered before its kind is learned: not where the user wants a proof first.
  bool answers_unlearned() const { return learner_.attr("answers_unlearned").cast<bool>(); }
  // Whether calls that are not learned may have state, which their first run shows.
  bool looks_for_state() const noexcept { return looks_for_state_; }
  // Runs the module, see CallRequest::look. `kind` null: calls of no kind.
  PyRef look(const CallKind* kind) const;
  // Whether a module that is not probed has its first run just now, by which it may turn out to have state.
  bool first_run_under_way() const { return learner_.attr("first_run_under_way")().cast<bool>(); }
  // Whether the module reads what belongs to a thread, so that its calls stay on the threads that make them.
  bool reads_thread_state() const { return learner_.attr("reads_thread_state").cast<bool>(); }
  // That results lack the gradients that the model's own would have, in words; None where they would have none.
  py::object gradients_lost() const { return learner_.attr("gradients_lost")(); }
  // Whether learning runs the model, so that a call with a deadline had better not wait for it.
  bool learns_by_runs() const { return learner_.attr("learns_by_runs").cast<bool>(); }
  // What a call is told that the module refuses, see CallRequest::refusal: it is of a kind that is not known yet, or
  // departs from its contract.
  PyRef refusal(const PreparedCall& call) const;
  // Whether calls of this kind, made like this one, are answered for a while before it is learned; see
  // CallKind::put_off.
  bool put_off(CallKind& kind, const py::tuple& args, const py::object& kwargs) const;
  // It is learned from the next call.
  void put_off_ends(CallKind& kind) const;
  // Hands a call to the thread that learns behind calls; false where there can be none.
  bool learn_behind(const CallKind& kind, const py::object& answered, const py::object& args,
                    const py::object& kwargs) const {
    return learner_.attr("learn_behind")(kind.id, answered, args, kwargs).cast<bool>();
  }

 private:
  // `may_teach`: the contract may be widened to the call.
  py::tuple ask_mismatch(const PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                         bool may_teach) const;
  void install(CallKind& kind, const py::tuple& learned);
  ContextVariables variables_of(const CallKind& kind) const;
  // With which the contract's padding was found to do nothing; null where nothing is padded by numbers alone.
  std::shared_ptr<const ProbedWeights> padded_with(const CallKind& kind, const py::object& contract) const;

  py::object learner_;
  const bool by_graph_;
  const double verify_;
  const bool looks_for_state_;
  std::shared_ptr<ChannelStats> stats_;
  PyRef own_;
  CallKinds kinds_;
  std::vector<std::weak_ptr<graph::GraphBackend>> served_;
  Overtaken overtaken_ = std::make_shared<std::atomic<bool>>(false);
};

// That a kind is learned, or widened, behind a call that does not wait for that. Unless it is kept, whoever comes next
// learns. Every method, the destructor too, requires the interpreter's lock.
class LearnPromise {
 public:
  // From a call of a kind that nothing is known of.
  static std::shared_ptr<LearnPromise> to_learn(BoundLearner& learner, const PreparedCall& call);
  // From one that departs from its kind's contract. Null where that teaches nothing, or somebody has promised it.
  static std::shared_ptr<LearnPromise> to_widen(BoundLearner& learner, const PreparedCall& call);
  ~LearnPromise();
  LearnPromise(const LearnPromise&) = delete;
  LearnPromise& operator=(const LearnPromise&) = delete;
  // Begins once `answered`, a Pending, is over and no worker runs it any more; None: at once.
  void keep(const py::object& answered);

 private:
  LearnPromise(BoundLearner& learner, const PreparedCall& call);

  BoundLearner& learner_;
  std::shared_ptr<CallKind> kind_;
  std::vector<at::Tensor> inputs_;  // copies: the caller may write to its own as soon as it has the result
};

}  // namespace torchpool
