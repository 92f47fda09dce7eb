#include "bindings/inplace/inside.h"

#include <array>

#include "bindings/inplace/raw_type.h"

namespace torchpool {

namespace {

thread_local int inside_depth = 0;

struct InnerCall {
  PyObject ob_base;
  PyObject* target;
  PyObject* module;  // a weak reference, or null
};

InnerCall* inner(PyObject* self) {
  return reinterpret_cast<InnerCall*>(self);
}

PyObject* make_inner(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  PyObject* target = nullptr;
  PyObject* module = nullptr;
  if (kwargs != nullptr && PyDict_GET_SIZE(kwargs) != 0) {
    PyErr_SetString(PyExc_TypeError, "InnerCall takes no keywords");
    return nullptr;
  }
  if (PyArg_ParseTuple(args, "O|O", &target, &module) == 0) return nullptr;
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  inner(self)->target = Py_NewRef(target);
  inner(self)->module = module == Py_None ? nullptr : Py_XNewRef(module);
  return self;
}

// A module that nobody else keeps is not to die while it runs.
PyObject* call_inner(PyObject* self, PyObject* args, PyObject* kwargs) {
  PyObject* target = inner(self)->target;
  if (inner(self)->module != nullptr) {
    PyObject* alive = PyWeakref_GetObject(inner(self)->module);
    if (alive != nullptr && alive != Py_None) target = alive;
  }
  Py_INCREF(target);
  PyObject* result = nullptr;
  {
    const InsideScope inside;
    result = PyObject_Call(target, args, kwargs);
  }
  Py_DECREF(target);
  return result;
}

int traverse_inner(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(inner(self)->target);
  Py_VISIT(inner(self)->module);
  return 0;
}

int clear_inner(PyObject* self) {
  Py_CLEAR(inner(self)->target);
  Py_CLEAR(inner(self)->module);
  return 0;
}

}  // namespace

InsideScope::InsideScope() noexcept {
  ++inside_depth;
}

InsideScope::~InsideScope() {
  --inside_depth;
}

bool is_inside() noexcept {
  return inside_depth > 0;
}

void register_inside(py::module_& module) {
  std::array<PyType_Slot, 7> slots{{{Py_tp_new, reinterpret_cast<void*>(make_inner)},
                                    {Py_tp_dealloc, reinterpret_cast<void*>(&raw_dealloc<clear_inner>)},
                                    {Py_tp_traverse, reinterpret_cast<void*>(traverse_inner)},
                                    {Py_tp_clear, reinterpret_cast<void*>(clear_inner)},
                                    {Py_tp_call, reinterpret_cast<void*>(call_inner)},
                                    {Py_tp_doc, const_cast<char*>("Calls a module for a predictor.")},
                                    {0, nullptr}}};
  add_raw_type(module, "torchpool._core.InnerCall", sizeof(InnerCall), slots.data());
  module.def("is_inside", &is_inside, "Whether the calling thread runs a module for a predictor.");
  module.def(
      "run_inside",
      [](const py::function& body) {
        const InsideScope inside;
        return body();
      },
      py::arg("body"), "body(), with the calling thread marked as one that runs a module for a predictor.");
}

}  // namespace torchpool
