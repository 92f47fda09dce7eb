// Reads a call: its tensors and the structure around them, its caller's state, its kind, and how that kind is served.
#pragma once

#include <optional>
#include <set>
#include <vector>

#include "bindings/graph/module_watch.h"
#include "bindings/predictor/bound_learner.h"
#include "bindings/predictor/known_states.h"
#include "bindings/predictor/predictor_channels.h"

namespace torchpool {

// Every method requires the interpreter's lock.
class CallReader {
 public:
  // `modules` are those that the target is made of. `by_graph`: a graph may serve calls, which sees no plain attribute
  // change. `invariant`: a call waits for what it is learned to be served by, so that all calls like it are served so.
  CallReader(const py::list& modules, bool by_graph, bool invariant, BoundLearner& learner,
             const PredictorChannels& channels);

  // False when the call is of a kind that nothing is known of. `may_put_off`: or of one that is not to be learned yet.
  // `alone`: no other call of the module is under way; if not, learns_alone may be set, and nothing is learned.
  bool try_read(const py::tuple& args, const py::object& kwargs, PreparedCall& call, bool may_put_off = false,
                bool alone = false);
  // Learns from the call where it is of an unknown kind, which runs the model some times. With a deadline the call does
  // not wait for that: it is promised to be learned from, and answered by the module. Waits for another thread that
  // learns where calls must not disturb it, or where the user wants a proof first; throws DeadlineExceeded.
  // `may_put_off`: it need not be learned from as long as calls like it are few.
  void read(const py::tuple& args, const py::object& kwargs, PreparedCall& call,
            std::optional<TimePoint> deadline = std::nullopt, bool may_put_off = false, bool alone = false);

  // For a call that is to run on its caller's thread: waits while another thread has the first run of a module that is
  // not probed, by which that may turn out to have state.
  void wait_for_first_run(PreparedCall& call) const;
  // Nothing learned so far holds any more, of whichever state of the module. False, and nothing is settled, if other
  // threads have learned meanwhile.
  bool forget();

  KnownStates& states() noexcept { return states_; }
  // Whether nothing learned so far holds after such a change of the module.
  bool matters(ChangeKind change) const noexcept { return change != ChangeKind::kAttribute || by_graph_; }
  ModuleWatch& watch() noexcept { return watch_; }
  const ModuleWatch& watch() const noexcept { return watch_; }
  // What it keeps, for the cycle collector.
  int traverse(visitproc visit, void* arg) const {
    const int stopped = watch_.traverse(visit, arg);
    return stopped != 0 ? stopped : states_.traverse(visit, arg);
  }

 private:
  void refuse_grad(const FlatCall& flat, const py::tuple& args, PyObject* kwargs) const;
  void fit(PreparedCall& call) const;
  void find_route(PreparedCall& call) const;
  void begin_unlearned();
  bool reads_thread_state();
  // For a call of no kind. `known_state`: see KnownStates::follow.
  void fit_no_kind(PreparedCall& call, bool known_state = true);
  // For a call that is not learned: as in a standard pool for a plain function; for a module in order, unless a run of
  // it has shown no state.
  void find_direct_route(PreparedCall& call, const std::shared_ptr<std::atomic<HasState>>& has_state) const;
  bool merges(CallKind& kind, const PreparedCall& call) const;
  bool takes(CallKind& kind, const PreparedCall& call) const;
  // Whether the weights of the kind's graph lie elsewhere now: then it is to be learned anew.
  static bool lost_its_graph(CallKind& kind);
  // Whether it is still to be seen what serves such calls, which all of them wait for: another thread settles it, or
  // the kind may be widened by the call.
  bool is_unsettled(const PreparedCall& call) const;
  // Widens the kind, or waits a moment for the thread that does; with a deadline another thread does it.
  void settle(PreparedCall& call, const py::tuple& args, const py::object& kwargs, std::optional<TimePoint> deadline);
  static void sleep_a_moment();
  // `to_the_end`: also while others may run the model.
  void wait_until_learned(const CallKind& kind, TimePoint deadline, bool to_the_end) const;

  const bool by_graph_;
  const bool invariant_;
  BoundLearner& learner_;
  const PredictorChannels& channels_;
  ModuleWatch watch_;
  KnownStates states_;
  std::set<OpaqueArgument> opaque_seen_;
  bool forgotten_ = false;                  // whether the module has ever been another one than before
  std::uint64_t changes_ = 0;               // that the two below have heard of
  std::optional<bool> reads_thread_state_;  // empty: not asked yet
  // Of calls of no kind: their arguments cannot be taken apart, hold no tensor, or there are too many kinds.
  std::shared_ptr<std::atomic<HasState>> has_state_ = std::make_shared<std::atomic<HasState>>(HasState::kUnknown);
};

}  // namespace torchpool
