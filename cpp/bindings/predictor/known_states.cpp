#include "bindings/predictor/known_states.h"

#include <chrono>
#include <limits>
#include <thread>
#include <utility>

namespace torchpool {

class KnownStates::Switch {
 public:
  explicit Switch(bool& switching) : switching_(switching) { switching_ = true; }
  ~Switch() { switching_ = false; }
  Switch(const Switch&) = delete;
  Switch& operator=(const Switch&) = delete;

 private:
  bool& switching_;
};

// Who sees the change as well finds what the other thread has put in place.
void KnownStates::wait_for_switch() const {
  while (switching_) {
    {
      const GilRelease release;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

bool KnownStates::follow(ModuleWatch& watch, bool attributes_matter, bool updating) {
  if (switching_) wait_for_switch();
  const Change change = watch.look();
  if (!change) return count_call();
  if (change.kind == ChangeKind::kAttribute && !attributes_matter) {
    watch.rebase();
    return true;
  }
  ++changes_;
  const bool state = change.kind == ChangeKind::kAttribute || change.kind == ChangeKind::kTraining;
  if (updating) learner_.retire_graphs();
  if (!state || updating) clear();
  if (state && recall(watch)) {
    calls_ = 0;
    restless_ = false;
    return true;
  }
  quick_changes_ = calls_ < kRest ? quick_changes_ + 1 : 0;
  begin_anew(watch, state && !restless_ && !updating);
  calls_ = 0;
  restless_ = state && quick_changes_ > kQuickChanges;
  return !restless_;
}

template <typename Body>
void KnownStates::for_each_graph(Body body) {
  for (const Known& known : known_) {
    for (const auto& [structure, kinds] : known.kinds) {
      for (const auto& kind : kinds) {
        if (kind->graph) body(*kind->graph);
      }
    }
  }
}

void KnownStates::clear() {
  for_each_graph([](graph::GraphBackend& graph) { graph.retire(); });
  known_.clear();
}

// Captures that a change has interrupted go on when the state seems to last.
bool KnownStates::count_call() {
  if (calls_ < std::numeric_limits<int>::max()) ++calls_;
  if (calls_ >= kRest && (calls_ & (calls_ - 1)) == 0) {
    restless_ = false;
    learner_.state_rests();
  }
  return !restless_;
}

bool KnownStates::recall(ModuleWatch& watch) {
  for (auto known = known_.begin(); known != known_.end(); ++known) {
    if (!watch.is_in(known->state)) continue;
    const Switch here(switching_);
    std::list<Known> found;
    found.splice(found.begin(), known_, known);
    py::object memory = learner_.exchange_memory(found.front().memory);
    known_.push_front({watch.exchange(std::move(found.front().state)),
                       learner_.kinds().exchange(std::move(found.front().kinds)), std::move(memory),
                       learner_.overtake(std::move(found.front().overtaken))});
    return true;
  }
  return false;
}

void KnownStates::begin_anew(ModuleWatch& watch, bool keep) {
  const Switch here(switching_);
  const std::size_t before = watch.volatile_names().size();
  py::object memory = learner_.exchange_memory(py::none());
  CallKinds::Taken kinds = learner_.kinds().exchange({});
  BoundLearner::Overtaken overtaken = learner_.overtake();
  ModuleState state = watch.rebase_and_give();
  if (watch.volatile_names().size() != before) {
    clear();  // they would be taken for what they are not
    return;
  }
  if (!keep || kinds.empty()) return;
  known_.push_front({std::move(state), std::move(kinds), std::move(memory), std::move(overtaken)});
  if (known_.size() > kMost) known_.pop_back();
}

int KnownStates::traverse(visitproc visit, void* arg) const {
  for (const Known& known : known_) {
    Py_VISIT(known.memory.ptr());
    if (const int stopped = known.state.traverse(visit, arg); stopped != 0) return stopped;
  }
  return 0;
}

}  // namespace torchpool
