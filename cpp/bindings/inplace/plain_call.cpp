#include "bindings/inplace/plain_call.h"

#include <vector>

#include "bindings/inplace/inside.h"

namespace torchpool {

namespace {

thread_local PyObject* passed_on = nullptr;  // whose __call__ has just passed a call on to its forward

class PassedOn {
 public:
  explicit PassedOn(PyObject* module) noexcept : before_(passed_on) { passed_on = module; }
  ~PassedOn() { passed_on = before_; }
  PassedOn(const PassedOn&) = delete;
  PassedOn& operator=(const PassedOn&) = delete;

 private:
  PyObject* before_;
};

}  // namespace

bool take_plain(Entrance* own) {
  PyObject* found = PyObject_CallNoArgs(own->find_plain);
  PyObject* call = nullptr;
  PyObject* forward = nullptr;
  int own_call = 0;
  if (found == nullptr) return false;
  if (PyArg_ParseTuple(found, "OOp", &call, &forward, &own_call) == 0) {
    Py_DECREF(found);
    return false;
  }
  Py_XSETREF(own->plain_call, Py_NewRef(call));
  Py_XSETREF(own->plain_forward, Py_NewRef(forward));
  own->forward_only_inside = own_call != 0;
  Py_DECREF(found);
  return true;
}

bool follow_class(Entrance* own, bool& changed) {
  if (own->known == nullptr || own->find_plain == nullptr) return true;
  auto* type = reinterpret_cast<PyTypeObject*>(own->type);
  ClassWatch::Change seen = own->known->watch.look(type, own->made);
  if (seen == ClassWatch::Change::kMethods) {
    own->known->first.clear();
    if (!take_plain(own)) return false;
    seen = own->known->watch.look(type, own->made);
  }
  changed = seen == ClassWatch::Change::kClass;
  return true;
}

bool follow_object(Entrance* own, PyObject* module) {
  PyTypeObject* now = Py_TYPE(module);
  auto* type = reinterpret_cast<PyTypeObject*>(own->type);
  if (now != type && (PyType_IsSubtype(now, type) == 0 || !has_same_methods(now, type))) return false;
  if (reinterpret_cast<PyObject*>(now) == own->seen_type) return true;
  if (own->keeper == nullptr) return false;
  PyObject* keeper = Py_NewRef(own->keeper);  // restore() may take it away meanwhile
  PyObject* follows = PyObject_CallMethod(keeper, "class_changed", nullptr);
  Py_DECREF(keeper);
  if (follows == nullptr) PyErr_WriteUnraisable(module);
  const bool does = follows == Py_True;
  Py_XDECREF(follows);
  if (!does || Py_TYPE(module) != now) return false;
  own->known->first.clear();
  Py_XSETREF(own->seen_type, Py_NewRef(reinterpret_cast<PyObject*>(now)));
  return true;
}

PyObject* call_plain(Entrance* own, Door door, PyObject* module, PyObject* args, PyObject* kwargs) {
  constexpr std::size_t kFew = 8;
  const auto count = static_cast<std::size_t>(PyTuple_GET_SIZE(args)) + 1;
  std::array<PyObject*, kFew> few{};
  std::vector<PyObject*> many;
  PyObject** all = few.data();
  if (count > kFew) {
    many.resize(count);
    all = many.data();
  }
  all[0] = module;
  for (std::size_t i = 1; i < count; ++i) all[i] = PyTuple_GET_ITEM(args, static_cast<Py_ssize_t>(i) - 1);
  const PassedOn scope(door == Door::kCall && !is_inside() ? module : nullptr);
  PyObject* plain = Py_NewRef(door == Door::kCall ? own->plain_call : own->plain_forward);  // the class may change
  PyObject* result = PyObject_VectorcallDict(plain, all, count, PyDict_GET_SIZE(kwargs) == 0 ? nullptr : kwargs);
  Py_DECREF(plain);
  return result;
}

bool is_passed_on(PyObject* module) noexcept {
  return passed_on == module;
}

}  // namespace torchpool
