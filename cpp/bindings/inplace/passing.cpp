#include "bindings/inplace/passing.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>
#include <array>
#include <unordered_set>

#include "bindings/graph/module_parts.h"
#include "bindings/interpreter/import_from.h"

namespace torchpool {

namespace {

// Looked up once; never dropped.
struct Names {
  PyObject* training = PyUnicode_InternFromString("training");
  PyObject* forward = PyUnicode_InternFromString("forward");
  PyObject* compiled = PyUnicode_InternFromString("_compiled_call_impl");
  PyObject* parameters = PyUnicode_InternFromString("_parameters");
  PyObject* buffers = PyUnicode_InternFromString("_buffers");
  PyObject* modules = PyUnicode_InternFromString("_modules");
  std::array<PyObject*, 4> hooks{
      PyUnicode_InternFromString("_forward_hooks"), PyUnicode_InternFromString("_forward_pre_hooks"),
      PyUnicode_InternFromString("_backward_hooks"), PyUnicode_InternFromString("_backward_pre_hooks")};
  std::array<PyObject*, 4> global_hooks{import_from("torch.nn.modules.module", "_global_forward_hooks"),
                                        import_from("torch.nn.modules.module", "_global_forward_pre_hooks"),
                                        import_from("torch.nn.modules.module", "_global_backward_hooks"),
                                        import_from("torch.nn.modules.module", "_global_backward_pre_hooks")};
};
const Names* names = nullptr;

bool has_entries(PyObject* dict) {
  return dict != nullptr && PyDict_Check(dict) && PyDict_GET_SIZE(dict) != 0;
}

constexpr int kDeepest = 4;             // of containers among the attributes, in one another
constexpr Py_ssize_t kMostItems = 256;  // of each that are looked at: longer ones hold data

using Seen = std::unordered_set<PyObject*>;

bool weights_require_grad(PyObject* dict, Seen& seen);

bool value_requires_grad(PyObject* value, Seen& seen, int depth) {
  if (is_tensor(value)) return THPVariable_Unpack(value).requires_grad();
  if (depth == kDeepest) return false;
  if (PyTuple_CheckExact(value) || PyList_CheckExact(value)) {
    const Py_ssize_t count = std::min(PySequence_Fast_GET_SIZE(value), kMostItems);
    for (Py_ssize_t i = 0; i < count; ++i) {
      if (value_requires_grad(PySequence_Fast_GET_ITEM(value, i), seen, depth + 1)) return true;
    }
    return false;
  }
  if (PyDict_CheckExact(value)) {
    Py_ssize_t at = 0;
    PyObject* item = nullptr;
    for (Py_ssize_t i = 0; i < kMostItems && PyDict_Next(value, &at, nullptr, &item) != 0; ++i) {
      if (value_requires_grad(item, seen, depth + 1)) return true;
    }
    return false;
  }
  PyObject** place = place_of_dict(value);
  return place != nullptr && find(*place, names->parameters) != nullptr && weights_require_grad(*place, seen);
}

bool any_requires_grad(PyObject* dict) {
  Py_ssize_t at = 0;
  PyObject* value = nullptr;
  while (PyDict_Next(dict, &at, nullptr, &value) != 0) {
    if (is_tensor(value) && THPVariable_Unpack(value).requires_grad()) return true;
  }
  return false;
}

bool weights_require_grad(PyObject* dict, Seen& seen) {
  if (!seen.insert(dict).second) return false;
  PyObject* parameters = find(dict, names->parameters);
  PyObject* buffers = find(dict, names->buffers);
  PyObject* modules = find(dict, names->modules);
  for (PyObject* part : {parameters, buffers, modules}) {
    if (part == nullptr || !PyDict_Check(part)) return true;  // a script keeps its own elsewhere
  }
  if (any_requires_grad(parameters) || any_requires_grad(buffers)) return true;
  Py_ssize_t at = 0;
  PyObject* value = nullptr;
  while (PyDict_Next(dict, &at, nullptr, &value) != 0) {
    const bool is_part = value == parameters || value == buffers || value == modules;
    if (!is_part && value_requires_grad(value, seen, 0)) return true;
  }
  at = 0;
  PyObject* module = nullptr;
  while (PyDict_Next(modules, &at, nullptr, &module) != 0) {
    if (module == Py_None) continue;
    PyObject** place = place_of_dict(module);
    if (place == nullptr || weights_require_grad(*place, seen)) return true;
  }
  return false;
}

}  // namespace

void set_up_passing() {
  names = new Names;
}

const char* to_string(Passing why) noexcept {
  switch (why) {
    case Passing::kNo:
      return "served";
    case Passing::kTrainMode:
      return "train mode";
    case Passing::kClass:
      return "class changed";
    case Passing::kForward:
      return "forward replaced";
    case Passing::kCompiled:
      return "compiled";
    case Passing::kHooks:
      return "hooks";
    case Passing::kTraced:
      return "traced";
    case Passing::kArguments:
      return "arguments";
    case Passing::kWritten:
      return "arguments written";
    case Passing::kFirst:
      return "first of its kind";
    case Passing::kDual:
      return "forward gradients";
    case Passing::kGradients:
      return "input gradients";
    case Passing::kWeights:
      return "gradients";
    case Passing::kResult:
      return "result gradients";
    case Passing::kNoPredictor:
      return "no predictor";
    case Passing::kErrors:
      return "errors";
    case Passing::kMost:
      break;
  }
  return "?";
}

Passing by_module(PyObject* dict, bool forward) noexcept {
  if (find(dict, names->training) != Py_False) return Passing::kTrainMode;
  if (forward && find(dict, names->forward) != nullptr) return Passing::kForward;
  PyObject* compiled = find(dict, names->compiled);
  if (compiled != nullptr && compiled != Py_None) return Passing::kCompiled;
  for (PyObject* name : names->hooks) {
    if (has_entries(find(dict, name))) return Passing::kHooks;
  }
  for (PyObject* hooks : names->global_hooks) {
    if (has_entries(hooks)) return Passing::kHooks;
  }
  return Passing::kNo;
}

Passing by_thread() noexcept {
  const bool traced = torch::jit::tracer::isTracing() || at::impl::PythonTorchFunctionTLS::stack_len() > 0 ||
                      c10::impl::TorchDispatchModeTLS::stack_len() > 0 ||
                      c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
  if (traced) return Passing::kTraced;
  // Levels are the process's: inputs, weights and tensors that are kept anywhere may have tangents.
  return torch::autograd::ForwardADLevel::try_get_by_idx(0) != nullptr ? Passing::kDual : Passing::kNo;
}

bool weights_require_grad(PyObject* dict) {
  Seen seen;
  return weights_require_grad(dict, seen);
}

}  // namespace torchpool
