#include "bindings/futures/future_object.h"

#include <algorithm>
#include <cstring>

#include "bindings/futures/call_future.h"
#include "bindings/futures/future_lock.h"
#include "bindings/futures/future_methods.h"
#include "bindings/futures/future_standard.h"
#include "bindings/interpreter/import_from.h"

namespace torchpool {

PyTypeObject* future_type = nullptr;
Py_ssize_t future_offset = 0;
Standard standard;

FutureExtra::~FutureExtra() {
  Py_XDECREF(keywords);
  Py_XDECREF(callbacks);
  Py_XDECREF(standard_waiters);
}

FutureExtra& extra_of(FutureFields& fields) {
  if (fields.extra == nullptr) fields.extra = new FutureExtra;
  return *fields.extra;
}

namespace {

bool quiet(PyObject* object) {
  if (object == nullptr || Py_REFCNT(object) > 1) return true;
  return PyLong_CheckExact(object) || PyFloat_CheckExact(object) || PyUnicode_CheckExact(object);
}

}  // namespace

Work::Work(FutureFields& fields) noexcept
    : callable_(std::exchange(fields.value, nullptr)), args_(std::exchange(fields.args, nullptr)) {
  if (fields.extra != nullptr) keywords_ = std::exchange(fields.extra->keywords, nullptr);
}

Work::~Work() {
  Py_XDECREF(callable_);
  Py_XDECREF(args_);
  Py_XDECREF(keywords_);
}

bool Work::drops_quietly() const noexcept {
  if (!quiet(callable_)) return false;
  if (args_ == nullptr || !PyTuple_CheckExact(args_) || Py_REFCNT(args_) > 1) return quiet(args_);
  PyObject** items = reinterpret_cast<PyTupleObject*>(args_)->ob_item;
  return std::all_of(items, items + PyTuple_GET_SIZE(args_), quiet);
}

void track_if_needed(PyObject* future) noexcept {
  const FutureFields& fields = *fields_of(future);
  if (PyObject_GC_IsTracked(future) != 0) return;
  if (fields.ordinary || (fields.value != nullptr && PyObject_IS_GC(fields.value))) PyObject_GC_Track(future);
}

void log_error(const char* hook, PyObject* about) noexcept {
  PyObject* raised = take_raised();
  PyObject* done = PyObject_CallMethod(standard.hooks, hook, "OO", raised, about);
  if (done == nullptr) PyErr_WriteUnraisable(about);
  Py_XDECREF(done);
  Py_XDECREF(raised);
}

#if PY_VERSION_HEX < 0x030C0000
// Neither a dict nor inline values are made until an attribute is set: 0.1 us less than the type's own allocation.
PyObject* new_future(PyTypeObject* type) {
  PyObject* future = PyObject_GC_New(PyObject, type);
  if (future == nullptr) return nullptr;
  const auto head = static_cast<Py_ssize_t>(sizeof(PyObject));
  std::memset(reinterpret_cast<char*>(future) + head, 0, static_cast<std::size_t>(type->tp_basicsize - head));
  return future;
}
#else
// Not tested yet: later versions lay instance attributes out in other ways, which their own allocation knows.
PyObject* new_future(PyTypeObject* type) {
  PyObject* future = PyType_GenericAlloc(type, 0);
  if (future != nullptr) PyObject_GC_UnTrack(future);
  return future;
}
#endif

namespace {

int visit_dict(PyObject* self, visitproc visit, void* arg) {
#if PY_VERSION_HEX >= 0x030D0000
  return PyObject_VisitManagedDict(self, visit, arg);
#elif PY_VERSION_HEX >= 0x030C0000
  return _PyObject_VisitManagedDict(self, visit, arg);
#else
  PyObject** dict = _PyObject_GetDictPtr(self);
  if (dict != nullptr) Py_VISIT(*dict);
  return 0;
#endif
}

void clear_dict(PyObject* self) {
#if PY_VERSION_HEX >= 0x030D0000
  PyObject_ClearManagedDict(self);
#elif PY_VERSION_HEX >= 0x030C0000
  _PyObject_ClearManagedDict(self);
#else
  PyObject** dict = _PyObject_GetDictPtr(self);
  if (dict != nullptr) Py_CLEAR(*dict);
#endif
}

int future_traverse(PyObject* self, visitproc visit, void* arg) {
  const FutureFields& fields = *fields_of(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(fields.value);
  Py_VISIT(fields.args);
  if (fields.extra != nullptr) {
    Py_VISIT(fields.extra->keywords);
    Py_VISIT(fields.extra->callbacks);
    Py_VISIT(fields.extra->standard_waiters);
  }
  return visit_dict(self, visit, arg);
}

int future_clear(PyObject* self) {
  FutureFields& fields = *fields_of(self);
  const Work work(fields);
  if (fields.extra != nullptr) {
    Py_CLEAR(fields.extra->callbacks);
    Py_CLEAR(fields.extra->standard_waiters);
  }
  clear_dict(self);
  return 0;
}

// Nothing waits for it and no queue has it: both would hold a reference.
void future_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  Py_TRASHCAN_BEGIN(self, future_dealloc) PyObject_ClearWeakRefs(self);
  future_clear(self);
  delete fields_of(self)->extra;
  delete fields_of(self)->call;
  type->tp_free(self);
  Py_DECREF(type);
  Py_TRASHCAN_END
}

// An attribute may refer back to the future.
int future_setattro(PyObject* self, PyObject* name, PyObject* value) {
  const int result = PyObject_GenericSetAttr(self, name, value);
  if (result == 0 && PyObject_GC_IsTracked(self) == 0) PyObject_GC_Track(self);
  return result;
}

PyObject* future_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  return new_future(type);
}

}  // namespace

void register_future(py::module_& module) {
  standard.future = reinterpret_cast<PyTypeObject*>(import_from("concurrent.futures", "Future"));
  standard.cancelled_error = import_from("concurrent.futures", "CancelledError");
  standard.broken_pool = import_from("concurrent.futures.thread", "BrokenThreadPool");
  standard.condition = import_from("threading", "Condition");
  standard.thread_module = import_from("concurrent.futures.thread", "__dict__");

  register_future_lock();
  const Py_ssize_t align = alignof(FutureFields);
  future_offset = (standard.future->tp_basicsize + align - 1) / align * align;
  std::vector<PyType_Slot> slots{
      {Py_tp_new, reinterpret_cast<void*>(future_new)},
      {Py_tp_dealloc, reinterpret_cast<void*>(future_dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(future_traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(future_clear)},
      {Py_tp_setattro, reinterpret_cast<void*>(future_setattro)},
      {Py_tp_repr, reinterpret_cast<void*>(future_repr)},
      {Py_tp_methods, future_methods},
      {Py_tp_getset, future_attributes()},
      {Py_tp_doc,
       const_cast<char*>("A concurrent.futures.Future of one task of an executor, or of one call of a predictor.")},
      {0, nullptr},
  };
  PyType_Spec spec{"torchpool._core.Future", static_cast<int>(future_offset + Py_ssize_t{sizeof(FutureFields)}), 0,
                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE, slots.data()};
  PyObject* type = PyType_FromSpecWithBases(&spec, reinterpret_cast<PyObject*>(standard.future));
  if (type == nullptr) throw py::error_already_set();
  future_type = reinterpret_cast<PyTypeObject*>(type);
  module.add_object("Future", type);
}

}  // namespace torchpool
