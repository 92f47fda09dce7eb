#include "bindings/graph/module_state.h"

#include <utility>

#include "bindings/graph/module_parts.h"
#include "bindings/interpreter/plain_value.h"

namespace torchpool {

namespace {

constexpr std::size_t kMaxObjects = 64;  // that keep attributes for modules
constexpr Py_ssize_t kMaxEntries = 64;   // of a dict among a module's attributes; larger ones are tables, or caches

// Differs after every change of a dict. Null where CPython has no such thing.
const void* stamp_of(PyObject* dict) {
#if PY_VERSION_HEX < 0x030C0000
  return &reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
#else
  static_cast<void>(dict);
  return nullptr;  // deprecated from 3.12 on, gone in 3.14
#endif
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

int ModuleState::traverse(visitproc visit, void* arg) const {
  for (const Part& part : parts_) {
    Py_VISIT(part.dict.ptr());
    for (const Entry& entry : part.entries) {
      Py_VISIT(entry.key.ptr());
      Py_VISIT(entry.value.ptr());
    }
  }
  for (const Owner& owner : owners_) {
    Py_VISIT(owner.object.ptr());
    Py_VISIT(owner.dict.ptr());
    Py_VISIT(owner.type.ptr());
  }
  return 0;
}

}  // namespace torchpool
