#include "bindings/inplace/class_watch.h"

#include <algorithm>

namespace torchpool {

namespace {

// Looked up once; never dropped.
const std::array<PyObject*, 2>& method_names() {
  static const std::array<PyObject*, 2> names{PyUnicode_InternFromString("__call__"),
                                              PyUnicode_InternFromString("forward")};
  return names;
}

PyObject* dict_of(PyObject* type) {
  return reinterpret_cast<PyTypeObject*>(type)->tp_dict;
}

// Borrowed; null where no class above has one.
PyObject* find_above(PyTypeObject* type, PyObject* name) {
  PyObject* mro = type->tp_mro;
  for (Py_ssize_t i = 1; mro != nullptr && i < PyTuple_GET_SIZE(mro); ++i) {
    PyObject* dict = dict_of(PyTuple_GET_ITEM(mro, i));
    PyObject* found = dict == nullptr ? nullptr : PyDict_GetItemWithError(dict, name);
    if (found != nullptr) return found;
  }
  return nullptr;
}

// What Python itself notes in a class does not count.
Py_ssize_t count_entries(PyTypeObject* type) {
  const Py_ssize_t noted = PyDict_GetItemString(type->tp_dict, "__slotnames__") == nullptr ? 0 : 1;
  return PyDict_GET_SIZE(type->tp_dict) - noted;
}

}  // namespace

bool has_same_methods(PyTypeObject* one, PyTypeObject* other) {
  return std::all_of(method_names().begin(), method_names().end(),
                     [=](PyObject* name) { return _PyType_Lookup(one, name) == _PyType_Lookup(other, name); });
}

bool may_be_accelerated(PyObject* callable) noexcept {
  // What a class has that was made for one module, and one that several come by. Looked up once; never dropped.
  static const std::array<PyObject*, 2> marks{PyUnicode_InternFromString("_torchpool_entrance"),
                                              PyUnicode_InternFromString("_torchpool_entered_class")};
  if (PyFunction_Check(callable) || PyCFunction_Check(callable)) return false;
  PyTypeObject* type = Py_TYPE(PyMethod_Check(callable) ? PyMethod_GET_SELF(callable) : callable);
  if (!PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE)) return false;
  return std::any_of(marks.begin(), marks.end(),
                     [type](PyObject* mark) { return _PyType_Lookup(type, mark) != nullptr; });
}

void ClassWatch::keep(Methods& kept, const Methods& found) {
  const Methods before = kept;
  for (PyObject* each : found) Py_XINCREF(each);
  kept = found;
  for (PyObject* each : before) Py_XDECREF(each);
}

void ClassWatch::start(PyTypeObject* type) {
  Methods own{};
  Methods above{};
  for (std::size_t i = 0; i < kMethods; ++i) {
    own.at(i) = _PyType_Lookup(type, method_names().at(i));
    above.at(i) = find_above(type, method_names().at(i));
  }
  keep(own_, own);
  keep(seen_, own);
  keep(above_, above);
  entries_ = count_entries(type);
  version_ = type->tp_version_tag;
  started_ = true;
}

ClassWatch::Change ClassWatch::look(PyTypeObject* type, bool made) {
  if (!started_) return Change::kNo;
  Methods own{_PyType_Lookup(type, method_names()[0]), nullptr};  // which gives the class a version, if it has none
  if (version_ == 0 || type->tp_version_tag != version_) {
    version_ = type->tp_version_tag;
    Methods above{};
    for (std::size_t i = 0; i < kMethods; ++i) {
      own.at(i) = _PyType_Lookup(type, method_names().at(i));
      above.at(i) = find_above(type, method_names().at(i));
    }
    const bool differs = own != seen_ || above != above_;
    changed_ = made && (own != own_ || count_entries(type) != entries_);
    keep(seen_, own);
    keep(above_, above);
    if (differs) return Change::kMethods;
  }
  return changed_ ? Change::kClass : Change::kNo;
}

int ClassWatch::traverse(visitproc visit, void* arg) const {
  for (const Methods* methods : {&own_, &seen_, &above_}) {
    for (PyObject* each : *methods) Py_VISIT(each);
  }
  return 0;
}

void ClassWatch::clear() {
  started_ = false;
  for (Methods* methods : {&own_, &seen_, &above_}) keep(*methods, {});
}

}  // namespace torchpool
