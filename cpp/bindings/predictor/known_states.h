// States of a module that were served before, with all that was learned of each.
#pragma once

#include <cstdint>
#include <list>

#include "bindings/graph/module_watch.h"
#include "bindings/predictor/bound_learner.h"

namespace torchpool {

// Note [A state seen before]
// Some modules go to and fro between a few states: an adapter is chosen for each call, train() and eval() take turns.
// What was learned in a state (kinds, contracts, graphs) holds again when the module is in it again, so it is put aside
// at a change, and found by comparing the module with the states that were put aside: a few microseconds instead of
// probing and capturing. Only plain attributes and train mode make a state: with other weights, submodules or hooks
// all states are forgotten, as they are when an attribute turns out to be volatile, which is compared no longer.
//
// What was learned while the module changed is not put aside. Where new states keep coming, sooner than kRest calls
// after another, calls go straight to the module until a state has lasted for so long: to learn costs as much as
// hundreds of calls.
//
// Every method requires the interpreter's lock.
class KnownStates {
 public:
  static constexpr std::size_t kMost = 16;
  static constexpr int kQuickChanges = 3;
  static constexpr int kRest = 16;

  explicit KnownStates(BoundLearner& learner) : learner_(learner) {}

  // A call begins: follows what changed of the module since the last one. False where the module itself is to answer,
  // since nothing is known of its state, which may be another one soon. `updating`: calls may wait for the end of an
  // update, which are not to read its weights by a graph of the module as it was.
  bool follow(ModuleWatch& watch, bool attributes_matter, bool updating);
  // How often the module turned out to be in another state than before.
  std::uint64_t changes() const noexcept { return changes_; }
  // What was learned of other states than the present one holds no longer.
  void clear();
  // What it keeps, for the cycle collector.
  int traverse(visitproc visit, void* arg) const;

 private:
  struct Known {
    ModuleState state;
    CallKinds::Taken kinds;
    py::object memory;  // the learner's
    BoundLearner::Overtaken overtaken;
  };
  class Switch;

  template <typename Body>
  void for_each_graph(Body body);
  bool count_call();
  void wait_for_switch() const;
  bool recall(ModuleWatch& watch);
  void begin_anew(ModuleWatch& watch, bool keep);

  BoundLearner& learner_;
  std::list<Known> known_;  // the last left first
  bool switching_ = false;  // a thread is, which lets others run in between
  std::uint64_t changes_ = 0;
  int calls_ = 0;          // in the present state
  int quick_changes_ = 0;  // in a row, to states that were not known
  bool restless_ = false;  // the present state is not learned of yet
};

}  // namespace torchpool
