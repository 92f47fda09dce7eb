#include "bindings/interpreter/errors.h"

namespace torchpool {

namespace py = pybind11;

namespace {

// Owned by the module for the life of the process.
struct ErrorTypes {
  PyObject* queue_full = nullptr;
  PyObject* closed = nullptr;
  PyObject* cancelled = nullptr;
};
ErrorTypes types;

PyObject* python_type(const Error& error) {
  if (dynamic_cast<const QueueFull*>(&error) != nullptr) return types.queue_full;
  if (dynamic_cast<const Closed*>(&error) != nullptr) return types.closed;
  if (dynamic_cast<const Cancelled*>(&error) != nullptr) return types.cancelled;
  if (dynamic_cast<const DeadlineExceeded*>(&error) != nullptr) return PyExc_TimeoutError;
  return PyExc_RuntimeError;
}

PyObject* new_error(py::module_& module, const char* name, const char* doc, PyObject* base) {
  const std::string qualified = std::string("torchpool.") + name;
  PyObject* type = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, base, nullptr);
  if (type == nullptr) throw py::error_already_set();
  module.add_object(name, py::reinterpret_borrow<py::object>(type));
  return type;
}

}  // namespace

void set_python_error(const Error& error) {
  PyErr_SetString(python_type(error), error.what());
}

void register_errors(py::module_& module) {
  types.queue_full = new_error(
      module, "QueueFull", "A predictor's or executor's queue is full and overflow is 'reject'.", PyExc_RuntimeError);
  types.closed = new_error(module, "Closed", "The predictor or its runtime was closed.", PyExc_RuntimeError);
  types.cancelled = py::object(py::module_::import("concurrent.futures").attr("CancelledError")).release().ptr();
  py::register_exception_translator(
      [](std::exception_ptr raised) {  // NOLINT(performance-unnecessary-value-param): its signature
        try {
          if (raised) std::rethrow_exception(raised);
        } catch (const Error& error) {
          set_python_error(error);
        }
      });
}

}  // namespace torchpool
