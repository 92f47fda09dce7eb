#include "bindings/inplace/served_call.h"

#include "bindings/interpreter/around_fork.h"
#include "bindings/interpreter/errors.h"
#include "bindings/predictor/bound_predictor.h"

namespace torchpool {

namespace {

PyObject* call_core(PyObject* core, PyObject* args, PyObject* kwargs) {
  const auto kept = py::reinterpret_borrow<py::object>(core);  // restore() may take it away meanwhile
  try {
    auto& predictor = kept.cast<BoundPredictor&>();
    const auto positional = py::reinterpret_borrow<py::tuple>(args);
    return predictor.call(positional, py::reinterpret_borrow<py::object>(kwargs), {}, nullptr, true).release().ptr();
  } catch (const Error& error) {
    set_python_error(error);
  } catch (const py::builtin_exception& error) {
    error.set_error();
  }
  return nullptr;
}

}  // namespace

bool keep_predictor(Entrance* own, PyObject* predictor) {
  PyObject* core = PyObject_CallMethod(predictor, "_core_to_call", nullptr);
  if (core == nullptr) return false;
  if (own->predictor == nullptr && own->module != nullptr) {  // no other thread has come first
    own->predictor = Py_NewRef(predictor);
    own->core = core == Py_None ? nullptr : Py_NewRef(core);
    own->core_forks = forks();
  }
  Py_DECREF(core);
  return true;
}

PyObject* call_predictor(const Entrance* own, PyObject* predictor, PyObject* args, PyObject* kwargs) {
  if (own->core == nullptr || own->core_forks != forks()) return PyObject_Call(predictor, args, kwargs);
  return guarded([&] { return call_core(own->core, args, kwargs); });
}

}  // namespace torchpool
