#include "bindings/graph/module_watch.h"

#include <algorithm>
#include <utility>

namespace torchpool {

Change ModuleWatch::summary(const std::vector<Difference>& differences) {
  constexpr std::size_t kMaxTexts = 3;
  Change change;
  for (const Difference& difference : differences) change.kind = std::max(change.kind, difference.kind);
  std::size_t told = 0;
  std::size_t more = 0;
  for (const Difference& difference : differences) {
    if (difference.kind != change.kind || told == kMaxTexts) {
      ++more;
      continue;
    }
    if (told++ != 0) change.text += "; ";
    change.text += difference.subject + " " + difference.what;
  }
  if (more != 0) change.text += "; and " + std::to_string(more) + " more";
  return change;
}

Change ModuleWatch::rebase_after_run(const std::function<bool(const Difference&)>& own) {
  if (!state_.moved()) return {};
  std::unordered_set<std::string> owned;
  for (const Difference& difference : state_.differences(volatile_)) {
    if (!own(difference)) return {};
    owned.insert(difference.subject);
  }
  // Python code has answered: other threads may have come in between.
  for (const Difference& difference : state_.differences(volatile_)) {
    if (!owned.contains(difference.subject)) return {};
  }
  return accept(&Counts::runs, kMaxRunChanges);
}

void ModuleWatch::count(const std::vector<Difference>& differences, int Counts::* counted, int most) {
  for (const Difference& difference : differences) {
    int& times = counts_[difference.subject].*counted;
    if (++times >= most && volatile_.insert(difference.subject).second) volatile_names_.push_back(difference.subject);
  }
}

bool ModuleState::structure_moved() const noexcept {
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (*slots_[i].at == slots_[i].seen || meanings_[i].kind != SlotKind::kStamp) continue;
    const PartKind kind = parts_[meanings_[i].index].kind;
    if (kind == PartKind::kModules || kind == PartKind::kHooks || kind == PartKind::kPreHooks) return true;
  }
  return false;
}

ModuleState ModuleWatch::rebase_and_give() {
  count(state_.differences(volatile_), &Counts::reports, kMaxReports);
  return std::exchange(state_, ModuleState(roots_, volatile_));
}

Change ModuleWatch::accept(int Counts::* counted, int most) {
  const std::vector<Difference> differences = state_.differences(volatile_);
  if (differences.empty()) return {};
  count(differences, counted, most);
  // The old state dies last: what it held may run code of its own when it is dropped.
  ModuleState before = std::exchange(state_, ModuleState(roots_, volatile_));
  return summary(differences);
}

}  // namespace torchpool
