#include "bindings/call/ambient.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

#include "predict/batch/hash.h"

namespace torchpool {

namespace {

std::uint64_t autocast_key() {
  std::uint64_t key = 0;
  for (const auto device : {at::kCPU, at::kCUDA}) {
    if (at::autocast::is_autocast_enabled(device)) {
      key = add_word(key + 1, static_cast<std::uint64_t>(device) * 256 +
                                  static_cast<std::uint64_t>(at::autocast::get_autocast_dtype(device)));
    }
  }
  return key;
}

// Values are compared by identity: the captured context keeps them alive, so that an address is not used twice while a
// request with it waits.
std::uint64_t key_of(PyObject* variable, PyObject* value) {
  return add_word(reinterpret_cast<std::uintptr_t>(variable), reinterpret_cast<std::uintptr_t>(value));
}

std::uint64_t context_key(const py::object& context) {
  std::uint64_t key = 1;
  for (const py::handle item : context.attr("items")()) {
    key += key_of(PyTuple_GET_ITEM(item.ptr(), 0), PyTuple_GET_ITEM(item.ptr(), 1));  // a sum: order does not count
  }
  return key;
}

// The same of some variables. Those that are not set do not count: their default is the same for all.
std::uint64_t context_key(const py::object& context, const std::vector<PyRef>& variables) {
  std::uint64_t key = 1;
  for (const PyRef& variable : variables) {
    auto* const name = static_cast<PyObject*>(variable.get());
    const auto value = py::reinterpret_steal<py::object>(PyObject_GetItem(context.ptr(), name));
    if (value) {
      key += key_of(name, value.ptr());
    } else if (PyErr_ExceptionMatches(PyExc_KeyError) != 0) {
      PyErr_Clear();
    } else {
      throw py::error_already_set();
    }
  }
  return key == 1 ? 0 : key;
}

}  // namespace

std::uint64_t merge_key(const Ambient& ambient, const ContextVariables& variables) {
  if (!ambient.state || !ambient.state->context) return ambient.torch_key;
  const py::object context = borrow(ambient.state->context);
  const std::uint64_t key = variables ? context_key(context, *variables) : context_key(context);
  return key == 0 ? ambient.torch_key : add_word(ambient.torch_key, key);
}

Ambient capture_ambient() {
  Ambient ambient;
  ambient.must_run_here = at::impl::PythonTorchFunctionTLS::stack_len() > 0 ||
                          c10::impl::TorchDispatchModeTLS::stack_len() > 0 ||
                          c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
  ambient.torch_key = autocast_key();
  auto context = py::reinterpret_steal<py::object>(PyContext_CopyCurrent());
  if (!context) throw py::error_already_set();
  const bool has_variables = PyObject_Length(context.ptr()) > 0;
  if (ambient.torch_key == 0 && !has_variables) return ambient;
  auto state = std::make_shared<PyAmbientState>();
  if (has_variables) state->context = make_ref(std::move(context));
  ambient.state = std::move(state);
  return ambient;
}

AmbientScope::AmbientScope(const AmbientState* state) : torch_(state) {
  const auto* captured = static_cast<const PyAmbientState*>(state);
  // Always a context of its own: what a model sets in one must not be seen by the next caller's.
  context_ = captured != nullptr && captured->context ? py::object(borrow(captured->context).attr("copy")())
                                                      : py::reinterpret_steal<py::object>(PyContext_New());
  if (!context_ || PyContext_Enter(context_.ptr()) != 0) throw py::error_already_set();
}

AmbientScope::~AmbientScope() {
  if (context_ && PyContext_Exit(context_.ptr()) != 0) PyErr_WriteUnraisable(context_.ptr());
}

}  // namespace torchpool
