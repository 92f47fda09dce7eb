#include "bindings/graph/module_state.h"

#include <torch/csrc/autograd/python_variable.h>

#include <utility>

#include "bindings/interpreter/plain_value.h"

namespace torchpool {

namespace {

constexpr std::size_t kMaxObjects = 64;  // that keep attributes for modules
constexpr Py_ssize_t kMaxEntries = 64;   // of a dict among a module's attributes; larger ones are tables, or caches

bool is_subtype(PyObject* object, py::handle type) {
  return PyType_IsSubtype(Py_TYPE(object), reinterpret_cast<PyTypeObject*>(type.ptr())) != 0;
}

bool is_tensor(PyObject* object) {
  return is_subtype(object, THPVariableClass);
}

// Where an object keeps its dict, which is the same place for life; null where it has none.
PyObject** place_of_dict(PyObject* object) {
  PyObject** place = _PyObject_GetDictPtr(object);
  return place != nullptr && *place != nullptr && PyDict_Check(*place) ? place : nullptr;
}

// Differs after every change of a dict. Null where CPython has no such thing.
const void* stamp_of(PyObject* dict) {
#if PY_VERSION_HEX < 0x030C0000
  return &reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
#else
  static_cast<void>(dict);
  return nullptr;  // deprecated from 3.12 on, gone in 3.14
#endif
}

std::string of_module(const std::string& path) {
  return path.empty() ? "of the model" : "of module '" + path + "'";
}

std::string joined(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

PyObject* find(PyObject* dict, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(dict, key);
  if (value == nullptr) PyErr_Clear();  // from keys of the user's own: as good as not there
  return value;
}

py::object borrowed(PyObject* object) {
  return py::reinterpret_borrow<py::object>(object);
}

struct OfAllModules {
  py::object type = py::module_::import("torch.nn").attr("Module");
  py::object keys = type().attr("__dict__").attr("copy")();
  py::object watched = py::reinterpret_steal<py::object>(PySet_New(
      py::make_tuple("training", "_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks").ptr()));
  py::object home = py::module_::import("torch.nn.modules.module");
};

// Once a process, with the first state: to make them runs Python code, where other threads may change a module that is
// recorded anew.
const OfAllModules& of_all_modules() {
  static const OfAllModules* made = nullptr;  // no guard: who waited for one would keep the interpreter's lock
  if (made == nullptr) {
    const auto* const own = new OfAllModules;
    if (made == nullptr) made = own;  // where two threads come, one's is never used
  }
  return *made;
}

}  // namespace

const char* to_string(ChangeKind kind) noexcept {
  switch (kind) {
    case ChangeKind::kNone:
      return "none";
    case ChangeKind::kAttribute:
      return "attribute";
    case ChangeKind::kWeights:
      return "weights";
    case ChangeKind::kTraining:
      return "training";
    case ChangeKind::kStructure:
      return "structure";
  }
  return "?";
}

// --- recording -------------------------------------------------------------------------------------------------------

class ModuleState::Recorder {
 public:
  Recorder(ModuleState& state, const Ignored& ignored)
      : state_(state), ignored_(ignored), module_type_(of_all_modules().type) {
    state_.module_keys_ = of_all_modules().keys;
    state_.watched_keys_ = of_all_modules().watched;
  }

  void add_global_hooks() {
    const py::object& module = of_all_modules().home;
    add_part({PartKind::kAllHooks, {}, {}, module.attr("_global_forward_hooks"), {}});
    add_part({PartKind::kAllPreHooks, {}, {}, module.attr("_global_forward_pre_hooks"), {}});
  }

  void add_module(PyObject* module, const std::string& path) {
    if (!is_subtype(module, module_type_) || !seen_.insert(module).second) return;
    PyObject** place = place_of_dict(module);
    if (place == nullptr || find(*place, py::str("training").ptr()) == nullptr) return;  // a script's
    const py::object dict = borrowed(*place);
    add_owner(module, place, of_module(path), ChangeKind::kStructure);
    add_classes(Py_TYPE(module));
    add_part({PartKind::kAttributes, path, {}, dict, {}});
    add_kept(dict.ptr(), path);
    constexpr std::pair<const char*, PartKind> kParts[] = {{"_parameters", PartKind::kParameters},
                                                           {"_buffers", PartKind::kBuffers},
                                                           {"_forward_hooks", PartKind::kHooks},
                                                           {"_forward_pre_hooks", PartKind::kPreHooks},
                                                           {"_modules", PartKind::kModules}};
    for (const auto& [name, kind] : kParts) {
      PyObject* part = find(dict.ptr(), py::str(name).ptr());
      if (part == nullptr || !PyDict_Check(part)) continue;
      add_part({kind, path, {}, borrowed(part), {}});
      if (kind == PartKind::kModules) add_inside(part, path);
    }
  }

 private:
  void add_inside(PyObject* modules, const std::string& path) {
    Py_ssize_t at = 0;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    while (PyDict_Next(modules, &at, &key, &value) != 0) add_module(value, joined(path, key_text(key)));
  }

  void add_slot(const void* at, const SlotMeaning& meaning) {
    static_assert(sizeof(void*) == sizeof(std::uint64_t));  // slots hold pointers as well
    if (at == nullptr) return;
    const auto* word = static_cast<const std::uint64_t*>(at);
    state_.slots_.push_back({word, *word});
    state_.meanings_.push_back(meaning);
  }

  void add_owner(PyObject* object, PyObject** place, std::string subject, ChangeKind kind) {
    const std::size_t index = state_.owners_.size();
    state_.owners_.push_back({borrowed(object), borrowed(*place), py::type::of(object), std::move(subject), kind});
    add_slot(static_cast<const void*>(place), {SlotKind::kDict, index});
    add_slot(static_cast<const void*>(&object->ob_type), {SlotKind::kType, index});
  }

  void add_part(Part part) {
    PyObject* dict = part.dict.ptr();
    if (!seen_.insert(dict).second) return;
    const std::size_t index = state_.parts_.size();
    const void* stamp = stamp_of(dict);
    state_.always_moved_ = state_.always_moved_ || stamp == nullptr;
    add_slot(stamp, {SlotKind::kStamp, index});
    const bool tensors = part.kind == PartKind::kParameters || part.kind == PartKind::kBuffers;
    part.entries.reserve(static_cast<std::size_t>(PyDict_GET_SIZE(dict)));
    Py_ssize_t at = 0;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    while (PyDict_Next(dict, &at, &key, &value) != 0) {
      if (!state_.is_watched(part, key)) continue;
      const bool ignored = !ignored_.empty() && ignored_.contains(subject_of(part, key));
      part.entries.push_back({borrowed(key), ignored ? py::object() : borrowed(value)});
      // swap_tensors() leaves the Python object and changes the tensor in it.
      if (tensors && !ignored && is_tensor(value)) {
        add_slot(&reinterpret_cast<THPVariable*>(value)->cdata, {SlotKind::kTensor, index, part.entries.size() - 1});
      }
    }
    state_.parts_.push_back(std::move(part));
  }

  // Objects and dicts that a module keeps in its attributes.
  void add_kept(PyObject* dict, const std::string& path) {
    Py_ssize_t at = 0;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    while (PyDict_Next(dict, &at, &key, &value) != 0 && kept_ < kMaxObjects) {
      if (!PyUnicode_CheckExact(key) || find(state_.module_keys_.ptr(), key) != nullptr || seen_.contains(value))
        continue;
      if (PyDict_Check(value)) {
        if (PyDict_GET_SIZE(value) > kMaxEntries) continue;
        ++kept_;
        add_part({PartKind::kDict, path, key_text(key), borrowed(value), {}});
        continue;
      }
      if (PyType_Check(value) || PyFunction_Check(value) || PyModule_Check(value) || is_tensor(value) ||
          is_subtype(value, module_type_)) {
        continue;
      }
      PyObject** place = place_of_dict(value);
      if (place == nullptr || seen_.contains(*place)) continue;
      ++kept_;
      seen_.insert(value);
      add_owner(value, place, "of attribute '" + key_text(key) + "' " + of_module(path), ChangeKind::kAttribute);
      add_part({PartKind::kObject, path, key_text(key), borrowed(*place), {}});
    }
  }

  void add_classes(PyTypeObject* type) {
    const auto bases = py::reinterpret_borrow<py::tuple>(type->tp_mro);
    for (const py::handle base : bases) {
      if (base.ptr() == module_type_.ptr()) return;
      auto* const class_type = reinterpret_cast<PyTypeObject*>(base.ptr());
      if ((class_type->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0) continue;
      const py::object dict = borrowed(class_type->tp_dict);
      add_part({PartKind::kClass, {}, class_type->tp_name, dict, {}});
    }
  }

  ModuleState& state_;
  const Ignored& ignored_;
  py::object module_type_;
  std::unordered_set<PyObject*> seen_;  // modules, objects and dicts
  std::size_t kept_ = 0;
};

ModuleState::ModuleState(const py::list& modules, const std::unordered_set<std::string>& ignored) {
  Recorder recorder(*this, ignored);
  recorder.add_global_hooks();
  for (const py::handle module : modules) recorder.add_module(module.ptr(), {});
}

// --- comparing -------------------------------------------------------------------------------------------------------

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
