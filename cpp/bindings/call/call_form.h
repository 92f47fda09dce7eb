// From a Python call's arguments to tensors and back.
#pragma once

#include <string>
#include <vector>

#include "bindings/interpreter/gil.h"
#include "predict/backends/script_backend.h"
#include "predict/batch/opaque_argument.h"

namespace torchpool {

// The structure of a call: which tensors stand where among its arguments, and the other values it was called with.
// Calls of equal structure have equal keys.
class PyCallForm : public ScriptCallForm {
 public:
  // One node of the arguments in preorder. Containers are followed by their `count` elements.
  struct Node {
    enum class Kind : std::uint8_t { kTensor, kValue, kTuple, kList, kDict };
    Kind kind = Kind::kTensor;
    std::size_t count = 0;
    PyRef value;                     // kValue: the object
    c10::TypePtr script_type;        // what a script's schema has there; null without a schema
    c10::IValue script_value;        // kValue: the same for a script, made while the lock is held
    std::vector<PyRef> keys;         // kDict: of the elements
    std::vector<std::string> names;  // kDict: the same as text
  };

  PyCallForm(std::vector<Node> nodes, std::vector<std::string> names)
      : nodes_(std::move(nodes)), names_(std::move(names)) {}

  // (args, kwargs) with `leaves` (tensors, in order) in their places. Requires the interpreter's lock.
  std::pair<py::tuple, py::dict> build(const std::vector<at::Tensor>& leaves) const;
  void arguments(std::vector<at::Tensor> inputs, std::vector<c10::IValue>& positional,
                 std::unordered_map<std::string, c10::IValue>& keyword) const override;
  // Per tensor: "0", "mask", "1[0]" (position, keyword, path inside).
  const std::vector<std::string>& names() const noexcept { return names_; }

 private:
  std::vector<Node> nodes_;  // the args tuple, then the kwargs dict (sorted by name)
  std::vector<std::string> names_;
};

// A call taken apart.
struct FlatCall {
  std::string key;                 // of its structure and its values other than tensors
  std::vector<at::Tensor> leaves;  // as passed, not detached
  OpaqueArgument opaque;           // not empty: the first that cannot be taken apart
};

// Takes tensors, None, bool, int, float, str, dtypes, devices, enum members and tuples, lists and dicts of these apart.
// `args` is a tuple; `kwargs` a dict or null. Requires the interpreter's lock.
void flatten_call(PyObject* args, PyObject* kwargs, FlatCall& flat);
// `schema`: of the script that is to be called, or null.
std::shared_ptr<PyCallForm> make_form(PyObject* args, PyObject* kwargs, const c10::FunctionSchema* schema);

}  // namespace torchpool
