#include "bindings/call/map_results.h"

#include <structmember.h>

#include <new>

namespace torchpool {

namespace {

// What Python may set.
struct MapState {
  PyObject head;
  char plain;            // in order, no timeout, exceptions raised: what nearly all maps are
  Py_ssize_t refill_at;  // so many calls are left in flight when more are read
  Py_ssize_t taken;      // results
};

// A Python object. Python's subclass has the methods that it calls by name.
struct MapResultsObject : MapState {
  MapResults results;
};

PyTypeObject* results_type = nullptr;
PyObject* fill_name = nullptr;
PyObject* next_name = nullptr;
PyObject* close_name = nullptr;

MapResultsObject& object_of(PyObject* self) noexcept {
  return *reinterpret_cast<MapResultsObject*>(self);
}

// Any C++ exception as Python's error.
template <class Body>
PyObject* translated(Body&& body) noexcept {
  try {
    return body();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (...) {
    try {
      raise_to_python(std::current_exception());
    } catch (py::error_already_set& error) {
      error.restore();
    }
  }
  return nullptr;
}

// Cancels what is left; the error that is set stays.
PyObject* failed(PyObject* self) {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyObject* closed = PyObject_CallMethodNoArgs(self, close_name);
  if (closed == nullptr) PyErr_WriteUnraisable(self);
  Py_XDECREF(closed);
  PyErr_Restore(type, value, traceback);
  return nullptr;
}

PyObject* next(PyObject* self) {
  MapResultsObject& map = object_of(self);
  if (map.plain == 0 || map.results.size() == 0) {
    PyObject* result = PyObject_CallMethodNoArgs(self, next_name);
    return result != nullptr ? result : failed(self);
  }
  PyObject* result = translated([&]() -> PyObject* {
    MapResults::Entry first = map.results.take_first();
    ++map.taken;
    if (static_cast<Py_ssize_t>(map.results.size()) <= map.refill_at) {
      const auto filled = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(self, fill_name));
      if (!filled) throw py::error_already_set();
    }
    return first.get().release().ptr();
  });
  return result != nullptr ? result : failed(self);
}

PyObject* make(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  PyObject* self = type->tp_alloc(type, 0);
  if (self != nullptr) new (&object_of(self).results) MapResults;
  return self;
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  return object_of(self).results.traverse(visit, arg);
}

int clear(PyObject* self) {
  object_of(self).results.clear();
  return 0;
}

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  object_of(self).results.~MapResults();
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* queued(PyObject* self, PyObject* /*none*/) {
  return PyLong_FromSize_t(object_of(self).results.size());
}

PyObject* put(PyObject* self, PyObject* outcome) {
  object_of(self).results.put_outcome(py::reinterpret_borrow<py::object>(outcome));
  Py_RETURN_NONE;
}

void require_any(const MapResults& results) {
  if (results.size() == 0) throw py::index_error("nothing is on its way");
}

PyObject* wait_first(PyObject* self, PyObject* timeout) {
  return translated([&] {
    require_any(object_of(self).results);
    const auto seconds = py::reinterpret_borrow<py::object>(timeout).cast<std::optional<double>>();
    return PyBool_FromLong(object_of(self).results.first().wait(seconds) ? 1 : 0);
  });
}

PyObject* take_first(PyObject* self, PyObject* /*none*/) {
  return translated([&] {
    require_any(object_of(self).results);
    return object_of(self).results.take_first().get().release().ptr();
  });
}

PyObject* cancel_all(PyObject* self, PyObject* /*none*/) {
  return translated([&] {
    object_of(self).results.cancel_all();
    return py::none().release().ptr();
  });
}

}  // namespace

bool MapResults::Entry::wait(std::optional<double> timeout) {
  return outcome ? outcome.attr("wait")(timeout).cast<bool>() : pending.wait(timeout);
}

py::object MapResults::Entry::get() {
  return outcome ? outcome.attr("get")() : pending.get();
}

void MapResults::Entry::cancel() {
  if (outcome) {
    outcome.attr("cancel")();
  } else {
    pending.cancel();
  }
}

MapResults& MapResults::of(const py::object& results) {
  if (PyObject_TypeCheck(results.ptr(), results_type) == 0) throw py::type_error("expected MapResults");
  return object_of(results.ptr()).results;
}

MapResults::Entry MapResults::take_first() {
  Entry first = std::move(entries_.front());
  entries_.pop_front();
  return first;
}

void MapResults::cancel_all() {
  like.reset();
  while (!entries_.empty()) {  // each lets go of the interpreter's lock: others may come by
    Entry last = std::move(entries_.back());
    entries_.pop_back();
    last.cancel();
  }
}

int MapResults::traverse(visitproc visit, void* arg) const {
  for (const Entry& entry : entries_) {
    if (entry.outcome) Py_VISIT(entry.outcome.ptr());
  }
  return 0;
}

void register_map_results(py::module_& module) {
  fill_name = PyUnicode_InternFromString("_fill");
  next_name = PyUnicode_InternFromString("_next");
  close_name = PyUnicode_InternFromString("close");
  static PyMethodDef methods[] = {
      {"_queued", queued, METH_NOARGS, "How many results are not taken yet."},
      {"_put", put, METH_O, "Puts an outcome that is known at the end."},
      {"_wait_first", wait_first, METH_O, "Waits for the first; False when that many seconds passed before."},
      {"_take_first", take_first, METH_NOARGS, "The first one's result."},
      {"_cancel_all", cancel_all, METH_NOARGS, "Cancels and drops all that have not started."},
      {nullptr, nullptr, 0, nullptr},
  };
  static PyMemberDef members[] = {
      {"_plain", T_BOOL, offsetof(MapState, plain), 0, "In order, no timeout, exceptions raised."},
      {"_refill_at", T_PYSSIZET, offsetof(MapState, refill_at), 0, "How many are left when more are read."},
      {"_taken", T_PYSSIZET, offsetof(MapState, taken), 0, "Results so far."},
      {nullptr, 0, 0, 0, nullptr},
  };
  PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(make)},
      {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(clear)},
      {Py_tp_iter, reinterpret_cast<void*>(PyObject_SelfIter)},
      {Py_tp_iternext, reinterpret_cast<void*>(next)},
      {Py_tp_methods, methods},
      {Py_tp_members, members},
      {Py_tp_doc, const_cast<char*>("The results of a map that are on their way.")},
      {0, nullptr},
  };
  PyType_Spec spec{"torchpool._core.MapResults", sizeof(MapResultsObject), 0,
                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE, slots};
  PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  results_type = reinterpret_cast<PyTypeObject*>(type);
  module.add_object("MapResults", type);
}

}  // namespace torchpool
