// Runs a call on its caller's own thread, by the module or by a graph.
#pragma once

#include <memory>

#include "bindings/graph/module_watch.h"
#include "bindings/interpreter/bound_runtime.h"
#include "bindings/predictor/bound_learner.h"
#include "bindings/predictor/prepared_call.h"
#include "core/sync/update_gate.h"

namespace torchpool {

// Every method requires the interpreter's lock.
class InlineRunner {
 public:
  // `invariant`: what a graph serves it serves here, too, and the module runs on one thread.
  InlineRunner(std::shared_ptr<BoundRuntime> runtime, py::object target, const BoundLearner& learner,
               std::shared_ptr<ChannelStats> stats, std::shared_ptr<UpdateGate> gate, bool invariant);

  // Whether the module runs on this thread for a call of it: a call that the module makes of its own must not wait for
  // that one.
  static bool runs_here() noexcept;

  // Each run waits for the end of an update of the weights.

  // By the module itself. Raises what it raises, or the typed error for it.
  py::object run(const PreparedCall& call, const py::tuple& args, const py::object& kwargs) const;
  // The same, or by the call's graph, if nothing runs or waits on `channel`, the call's own, and no update holds the
  // weights; else null.
  py::object run_if_idle(const PreparedCall& call, Channel& channel, const py::tuple& args,
                         const py::object& kwargs) const;
  // The model's own call, without gradients, for the learner's runs: what they change of the module's attributes, the
  // module writes whenever it runs.
  py::object run_watched(ModuleWatch& watch, const py::tuple& args, const py::object& kwargs) const;

  // What it refers to, for the cycle collector.
  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(target_.ptr());
    return 0;
  }

 private:
  void keep_up(const std::shared_ptr<graph::GraphBackend>& graph) const;
  py::object try_plain(const py::object& target, const py::tuple& args, const py::object& kwargs) const;
  py::object run_counted(const PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                         InlineCount& count) const;
  // `channel`: whose time is learned; null: nobody's. `tiny`: it is over before another thread could be told, so that
  // this one keeps the interpreter's lock.
  py::object try_graph(const PreparedCall& call, Channel* channel, bool one_core, bool tiny) const;

  std::shared_ptr<BoundRuntime> runtime_;
  py::object target_;
  const BoundLearner& learner_;
  std::shared_ptr<ChannelStats> stats_;
  std::shared_ptr<UpdateGate> gate_;
  const bool invariant_;
};

}  // namespace torchpool
