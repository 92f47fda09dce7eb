#include "bindings/inplace/keeper_calls.h"

#include <array>

namespace torchpool {

PyObject* ask(Entrance* own, const char* method, PyObject* about) {
  if (own->keeper == nullptr) Py_RETURN_NONE;
  PyObject* keeper = Py_NewRef(own->keeper);  // restore() may take it away meanwhile
  PyObject* name = PyUnicode_FromString(method);
  const std::array<PyObject*, 2> with{keeper, about};  // a format would take a tuple apart
  PyObject* answer =
      name == nullptr ? nullptr : PyObject_VectorcallMethod(name, with.data(), about == nullptr ? 1 : 2, nullptr);
  Py_XDECREF(name);
  Py_DECREF(keeper);
  return answer;
}

void tell(Entrance* own, const char* method, PyObject* about) {
  PyObject* done = ask(own, method, about);
  if (done == nullptr) PyErr_WriteUnraisable(about);
  Py_XDECREF(done);
}

bool serves_first(Entrance* own) {
  PyObject* answer = ask(own, "serves_first", nullptr);
  if (answer == nullptr && PyErr_ExceptionMatches(PyExc_Exception) != 0) PyErr_Clear();  // an interrupt stays
  const bool serves = answer == Py_True;
  Py_XDECREF(answer);
  return serves;
}

}  // namespace torchpool
