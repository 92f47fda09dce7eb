// Sees what happens to a module between calls: submodules, hooks, parameters, train mode, plain attributes.
#pragma once

#include <functional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "bindings/graph/module_state.h"

namespace torchpool {

struct Change {
  ChangeKind kind = ChangeKind::kNone;
  std::string text;  // "attribute 'temp' of module 'encoder' changed from 1.0 to 2.0"
  explicit operator bool() const noexcept { return kind != ChangeKind::kNone; }
};

// Note [What a module watch sees] lists what is watched and what leaves no trace. An uneventful look takes about 1 us
// for a hundred modules.
//
// Many modules write attributes of their own in forward: tables that grow, counters, the last length. What runs of the
// module change is *volatile* from the second time on, and no longer compared. A captured graph would miss what such a
// module does: it is for Python to run.
//
// Every method requires the interpreter's lock, as does destroying it.
class ModuleWatch {
 public:
  explicit ModuleWatch(const py::list& modules) : roots_(modules), state_(roots_, volatile_) {}
  ModuleWatch(const ModuleWatch&) = delete;
  ModuleWatch& operator=(const ModuleWatch&) = delete;

  // What differs from the state that was accepted last; the same answer until it is accepted.
  Change look() {
    if (!state_.moved()) return {};
    return summary(state_.differences(volatile_));
  }
  // Accepts the present state. What keeps changing between runs ends up volatile too, after kMaxReports: somebody else
  // may be calling the module beside us, and nothing tells that from its owner's changes.
  void rebase() { accept(&Counts::reports, kMaxReports); }
  // The same; gives the state of before.
  ModuleState rebase_and_give();
  // Whether the module is in this state; accepts it as the present one, and gives that of before.
  bool is_in(ModuleState& state) const { return state.differences(volatile_, true).empty(); }
  ModuleState exchange(ModuleState state) { return std::exchange(state_, std::move(state)); }
  // To be called right after a run of the module that followed an uneventful look: tells and accepts what the run
  // changed. `own` says of a difference whether the module's code can make it. If not, somebody else changed the module
  // meanwhile: nothing is accepted, and the next look finds it all.
  Change rebase_after_run(const std::function<bool(const Difference&)>& own);
  // Whether a run that followed an uneventful look has changed submodules or hooks, even if it has put them back:
  // another run at that time would have seen them. To be asked before rebase_after_run().
  bool run_changed_structure() const noexcept { return state_.structure_moved(); }
  // "attribute 'cos_cached' of module 'rotary'", ...: in the order in which they were found.
  const std::vector<std::string>& volatile_names() const noexcept { return volatile_names_; }
  std::size_t stamps() const noexcept { return state_.stamps(); }
  // What it keeps, for the cycle collector.
  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(roots_.ptr());
    return state_.traverse(visit, arg);
  }

  static constexpr int kMaxRunChanges = 2;
  static constexpr int kMaxReports = 8;

 private:
  struct Counts {
    int runs = 0;
    int reports = 0;
  };
  static Change summary(const std::vector<Difference>& differences);
  void count(const std::vector<Difference>& differences, int Counts::* counted, int most);
  Change accept(int Counts::* counted, int most);

  py::list roots_;
  std::unordered_map<std::string, Counts> counts_;  // by subject
  std::unordered_set<std::string> volatile_;        // subjects
  std::vector<std::string> volatile_names_;
  ModuleState state_;
};

void register_watches(py::module_& module);

}  // namespace torchpool
