#include "bindings/graph/module_parts.h"
#include "bindings/graph/module_state.h"
#include "bindings/interpreter/plain_value.h"

namespace torchpool {

bool ModuleState::is_watched(const Part& part, PyObject* key) const {
  if (part.kind == PartKind::kDict) return true;
  if (!PyUnicode_CheckExact(key)) return PyLong_CheckExact(key);
  if (part.kind == PartKind::kAttributes) {  // of nn.Module's own, the others are for training and saving
    return find(module_keys_.ptr(), key) == nullptr || PySet_Contains(watched_keys_.ptr(), key) == 1;
  }
  if (part.kind != PartKind::kClass) return true;
  // Python's own, which it also sets late (__slotnames__ at the first copy); a class's __call__ is its author's.
  const std::string name = key_text(key);
  return !name.starts_with("__") || !name.ends_with("__") || name == "__call__";
}

std::string ModuleState::subject_of(const Part& part, PyObject* key) {
  std::string name = key_text(key);
  switch (part.kind) {
    case PartKind::kAttributes:
      return name == "training" ? "train mode " + of_module(part.path)
                                : "attribute '" + name + "' " + of_module(part.path);
    case PartKind::kModules:
      return "submodule '" + joined(part.path, name) + "'";
    case PartKind::kParameters:
      return "parameter '" + joined(part.path, name) + "'";
    case PartKind::kBuffers:
      return "buffer '" + joined(part.path, name) + "'";
    case PartKind::kHooks:
      return "forward hook " + name + " " + of_module(part.path);
    case PartKind::kPreHooks:
      return "forward pre-hook " + name + " " + of_module(part.path);
    case PartKind::kObject:
      return "attribute '" + part.name + "." + name + "' " + of_module(part.path);
    case PartKind::kDict:  // as a whole: caches have a new key at each call
      return "attribute '" + part.name + "' " + of_module(part.path);
    case PartKind::kClass:
      return "'" + name + "' of class " + part.name;
    case PartKind::kAllHooks:
      return "forward hook " + name + " of all modules";
    case PartKind::kAllPreHooks:
      return "forward pre-hook " + name + " of all modules";
  }
  return name;
}

std::string ModuleState::name_of(const Part& part, PyObject* key) {
  if (part.kind == PartKind::kHooks || part.kind == PartKind::kAllHooks) return "_forward_hooks";
  if (part.kind == PartKind::kPreHooks || part.kind == PartKind::kAllPreHooks) return "_forward_pre_hooks";
  return key_text(key);
}

ChangeKind ModuleState::kind_of(const Part& part, PyObject* key) const {
  switch (part.kind) {
    case PartKind::kAttributes: {
      if (find(module_keys_.ptr(), key) == nullptr)
        return key_text(key) == "forward" ? ChangeKind::kStructure : ChangeKind::kAttribute;
      return key_text(key) == "training" ? ChangeKind::kTraining : ChangeKind::kStructure;
    }
    case PartKind::kObject:
    case PartKind::kDict:
      return ChangeKind::kAttribute;
    case PartKind::kClass: {
      const PyObject* value = find(part.dict.ptr(), key);
      return value != nullptr && PyFunction_Check(value) ? ChangeKind::kStructure : ChangeKind::kAttribute;
    }
    default:
      return ChangeKind::kStructure;
  }
}

// Whether the dict has the entries that were recorded, in their order.
bool ModuleState::same_entries(const Part& part) const {
  auto entry = part.entries.begin();
  Py_ssize_t at = 0;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  while (PyDict_Next(part.dict.ptr(), &at, &key, &value) != 0) {
    if (!is_watched(part, key)) continue;
    if (entry == part.entries.end() || entry->key.ptr() != key) return false;
    if (entry->value && !same_value(entry->value.ptr(), value)) return false;
    ++entry;
  }
  return entry == part.entries.end();
}

// Whether the keys stand in another order, which is the order in which modules and hooks run.
bool ModuleState::reordered(const Part& part) {
  auto entry = part.entries.begin();
  Py_ssize_t at = 0;
  PyObject* key = nullptr;
  while (PyDict_Next(part.dict.ptr(), &at, &key, nullptr) != 0 && entry != part.entries.end()) {
    if (!same_value((entry++)->key.ptr(), key)) return true;
  }
  return false;
}

bool ModuleState::has_key(const Part& part, PyObject* key) {
  for (const Entry& entry : part.entries) {
    if (same_value(entry.key.ptr(), key)) return true;
  }
  return false;
}

void ModuleState::compare(const Part& part, const Entry& entry, PyObject* now, std::vector<Difference>& found) const {
  PyObject* before = entry.value.ptr();
  if (now != nullptr && same_value(before, now)) return;
  PyObject* key = entry.key.ptr();
  ChangeKind kind = kind_of(part, key);
  std::string what = "was removed";
  if (now != nullptr) {
    const bool tensors = part.kind == PartKind::kParameters || part.kind == PartKind::kBuffers;
    if (tensors && is_tensor(before) && is_tensor(now)) kind = ChangeKind::kWeights;
    const std::string from = value_text(before);
    const std::string to = value_text(now);
    what = from == to ? "was replaced" : "changed from " + from + " to " + to;
    if (kind == ChangeKind::kTraining) what = now == Py_True ? "was switched on" : "was switched off";
  }
  found.push_back({kind, subject_of(part, key), std::move(what), name_of(part, key)});
}

void ModuleState::compare(const Part& part, const Ignored& ignored, std::vector<Difference>& found) const {
  if (same_entries(part)) return;
  PyObject* dict = part.dict.ptr();
  if (part.kind == PartKind::kDict) {
    std::string subject = subject_of(part, Py_None);
    if (ignored.contains(subject)) return;
    return found.push_back({ChangeKind::kAttribute, std::move(subject), "has other entries", part.name, true});
  }
  const std::size_t before = found.size();
  for (const Entry& entry : part.entries) {
    if (entry.value) compare(part, entry, find(dict, entry.key.ptr()), found);
  }
  Py_ssize_t at = 0;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  while (PyDict_Next(dict, &at, &key, &value) != 0) {
    if (!is_watched(part, key) || has_key(part, key)) continue;
    std::string subject = subject_of(part, key);
    if (ignored.contains(subject)) continue;
    found.push_back({kind_of(part, key), std::move(subject), "was added", name_of(part, key)});
  }
  const bool runs_in_order = part.kind == PartKind::kModules || part.kind == PartKind::kHooks;
  if (runs_in_order && found.size() == before && ignored.empty() && reordered(part)) {
    found.push_back({ChangeKind::kStructure, "order of what is inside, " + of_module(part.path), "changed", {}});
  }
}

void ModuleState::compare(const Owner& owner, SlotKind slot, std::vector<Difference>& found) const {
  PyObject* object = owner.object.ptr();
  if (slot == SlotKind::kType && !py::type::of(object).is(owner.type)) {
    const auto* before = reinterpret_cast<PyTypeObject*>(owner.type.ptr());
    found.push_back({owner.kind, "class " + owner.subject,
                     std::string("changed from ") + before->tp_name + " to " + Py_TYPE(object)->tp_name, "__class__"});
  }
  if (slot != SlotKind::kDict) return;
  PyObject** place = place_of_dict(object);
  if (place == nullptr || *place != owner.dict.ptr()) {
    found.push_back({owner.kind, "'__dict__' " + owner.subject, "was replaced", "__dict__"});
  }
}

std::vector<Difference> ModuleState::differences(const std::unordered_set<std::string>& ignored, bool first_only) {
  std::vector<Difference> found;
  if (always_moved_) {
    for (const Part& part : parts_) compare(part, ignored, found);
  }
  for (std::size_t i = 0; i < slots_.size() && (found.empty() || !first_only); ++i) {
    if (*slots_[i].at == slots_[i].seen) continue;
    const SlotMeaning& meaning = meanings_[i];
    const std::size_t before = found.size();
    if (meaning.kind == SlotKind::kStamp) {
      compare(parts_[meaning.index], ignored, found);
    } else if (meaning.kind == SlotKind::kTensor) {
      const Part& part = parts_[meaning.index];
      PyObject* key = part.entries[meaning.entry].key.ptr();
      found.push_back(
          {ChangeKind::kWeights, subject_of(part, key), "was swapped for another tensor", name_of(part, key)});
    } else {
      compare(owners_[meaning.index], meaning.kind, found);
    }
    if (found.size() == before) slots_[i].seen = *slots_[i].at;
  }
  return found;
}

}  // namespace torchpool
