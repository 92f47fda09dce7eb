#include "bindings/futures/future_standard.h"

#include <array>
#include <cstring>

#include "bindings/futures/future_lock.h"
#include "bindings/futures/future_wait.h"

namespace torchpool {

namespace {

constexpr std::array<const char*, 6> kNames{"_condition", "_state",   "_result",
                                            "_exception", "_waiters", "_done_callbacks"};

const char* state_name(const FutureFields& fields) {
  switch (fields.state) {
    case FutureState::kPending:
      return "PENDING";
    case FutureState::kRunning:
      return "RUNNING";
    case FutureState::kCancelled:
      return "CANCELLED_AND_NOTIFIED";
    case FutureState::kFinished:
      return "FINISHED";
  }
  return "";
}

// The instance's own dict, a borrowed reference; null with an error set.
PyObject* dict_of(PyObject* future) {
  PyObject* dict = PyObject_GenericGetDict(future, nullptr);
  Py_XDECREF(dict);  // the instance keeps it
  return dict;
}

py::object interned(const char* text) {
  return py::reinterpret_steal<py::object>(PyUnicode_InternFromString(text));
}

// All that has to be made, before anything is looked at: whatever is allocated may have the garbage collector run, and
// with it any code.
struct Parts {
  py::object condition = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(standard.condition));
  py::object waiters = py::list();
  py::object callbacks = py::list();
};

void take_list(PyObject*& list, py::object& part) {
  if (list != nullptr) part = py::reinterpret_steal<py::object>(std::exchange(list, nullptr));
}

// Nothing else runs meanwhile.
bool fill(PyObject* future, PyObject* dict, Parts& parts) {
  FutureFields& fields = *fields_of(future);
  if (fields.extra != nullptr) {
    take_list(fields.extra->standard_waiters, parts.waiters);
    take_list(fields.extra->callbacks, parts.callbacks);
  }
  const py::object none = py::none();
  const bool done = fields.state == FutureState::kFinished;
  const py::object value = done ? py::reinterpret_borrow<py::object>(fields.value) : none;
  const std::array<py::object, kNames.size()> values{parts.condition,
                                                     interned(state_name(fields)),
                                                     fields.failed ? none : value,
                                                     fields.failed ? value : none,
                                                     parts.waiters,
                                                     parts.callbacks};
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (PyDict_SetItemString(dict, kNames[i], values[i].ptr()) != 0) return false;
  }
  fields.ordinary = true;
  if (done) Py_CLEAR(fields.value);  // the dict has it
  track_if_needed(future);
  wake(detach_waiters(fields));
  if (fields.extra != nullptr) wake(detach(fields.extra->lock_waiters));
  return true;
}

// What wait() and as_completed() look at is there natively; null, without an error, for other names.
PyObject* native_attribute(PyObject* self, const char* name) {
  const FutureFields& fields = *fields_of(self);
  const bool done = fields.state == FutureState::kFinished;
  if (name == kNames[0]) return new_lock(self);
  if (name == kNames[1]) return interned(state_name(fields)).release().ptr();
  if (name == kNames[2]) return Py_NewRef(done && !fields.failed ? fields.value : Py_None);
  if (name == kNames[3]) return Py_NewRef(done && fields.failed ? fields.value : Py_None);
  if (name == kNames[4]) return Py_XNewRef(standard_waiters(self));
  return nullptr;
}

PyObject* get_attribute(PyObject* self, void* closure) {
  if (!fields_of(self)->ordinary) {
    PyObject* value = native_attribute(self, static_cast<const char*>(closure));
    if (value != nullptr || PyErr_Occurred() != nullptr) return value;
  }
  if (!make_ordinary(self)) return nullptr;
  const char* name = static_cast<const char*>(closure);
  PyObject* dict = dict_of(self);
  PyObject* value = dict == nullptr ? nullptr : PyDict_GetItemString(dict, name);
  if (value == nullptr && PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_AttributeError, name);
  return Py_XNewRef(value);
}

int set_attribute(PyObject* self, PyObject* value, void* closure) {
  if (!make_ordinary(self)) return -1;
  const char* name = static_cast<const char*>(closure);
  PyObject* dict = dict_of(self);
  if (dict == nullptr) return -1;
  if (value != nullptr) return PyDict_SetItemString(dict, name, value);
  if (PyDict_DelItemString(dict, name) == 0) return 0;
  PyErr_SetString(PyExc_AttributeError, name);
  return -1;
}

PyObject* get_dict(PyObject* self, void* context) {
  return make_ordinary(self) ? PyObject_GenericGetDict(self, context) : nullptr;
}

int set_dict(PyObject* self, PyObject* value, void* context) {
  return make_ordinary(self) ? PyObject_GenericSetDict(self, value, context) : -1;
}

}  // namespace

bool make_ordinary(PyObject* future) {
  const FutureFields& fields = *fields_of(future);
  if (fields.ordinary) return true;
  Parts parts;
  PyObject* dict = dict_of(future);
  if (!parts.condition || dict == nullptr || !wait_unlocked(future)) return false;
  if (fields.ordinary) return true;                           // another thread was faster
  for (int depth = lock_depth(fields); depth > 0; --depth) {  // whoever holds the lock holds the condition
    const auto locked =
        py::reinterpret_steal<py::object>(PyObject_CallMethod(parts.condition.ptr(), "acquire", nullptr));
    if (!locked) return false;
  }
  return fill(future, dict, parts);
}

FutureState ordinary_state(PyObject* future) {
  PyObject* dict = dict_of(future);
  PyObject* state = dict == nullptr ? nullptr : PyDict_GetItemString(dict, "_state");
  const char* name = state == nullptr ? nullptr : PyUnicode_AsUTF8(state);
  if (name == nullptr) {
    PyErr_Clear();
    return FutureState::kFinished;
  }
  if (std::strcmp(name, "PENDING") == 0) return FutureState::kPending;
  if (std::strcmp(name, "RUNNING") == 0) return FutureState::kRunning;
  return std::strcmp(name, "FINISHED") == 0 ? FutureState::kFinished : FutureState::kCancelled;
}

bool has_ended(PyObject* future) {
  const FutureFields& fields = *fields_of(future);
  if (!fields.ordinary) return is_done(fields);
  const FutureState state = ordinary_state(future);
  return state == FutureState::kCancelled || state == FutureState::kFinished;
}

PyGetSetDef* future_attributes() {
  static std::array<PyGetSetDef, kNames.size() + 2> all = [] {
    std::array<PyGetSetDef, kNames.size() + 2> made{};
    for (std::size_t i = 0; i < kNames.size(); ++i) {
      made[i] = {kNames[i], get_attribute, set_attribute, nullptr, const_cast<char*>(kNames[i])};
    }
    made[kNames.size()] = {"__dict__", get_dict, set_dict, nullptr, nullptr};
    return made;
  }();
  return all.data();
}

}  // namespace torchpool
