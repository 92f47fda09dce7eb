#include "predict/backends/script_backend.h"

#include <c10/core/InferenceMode.h>

namespace torchpool {

namespace {

void collect(const c10::IValue& value, std::vector<at::Tensor>& leaves) {
  if (value.isTensor()) {
    leaves.push_back(value.toTensor());
  } else if (value.isTuple()) {
    for (const auto& element : value.toTupleRef().elements()) collect(element, leaves);
  } else if (value.isTensorList()) {
    for (const at::Tensor& element : value.toTensorVector()) leaves.push_back(element);
  } else if (value.isList()) {
    for (const auto& element : value.toListRef()) collect(element, leaves);
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) collect(entry.value(), leaves);
  }
}

}  // namespace

std::vector<at::Tensor> flatten_result(const c10::IValue& result) {
  std::vector<at::Tensor> leaves;
  collect(result, leaves);
  return leaves;
}

ScriptBackend::ScriptBackend(const torch::jit::Module& module, const std::string& method)
    : method_(module.get_method(method)) {}

BackendResult ScriptBackend::run(const CallForm& form, std::vector<at::Tensor> inputs, const AmbientState* ambient,
                                 WorkerContext& /*context*/) {
  std::vector<c10::IValue> positional;
  std::unordered_map<std::string, c10::IValue> keyword;
  static_cast<const ScriptCallForm&>(form).arguments(std::move(inputs), positional, keyword);
  BackendResult result;
  {
    const AmbientTorchScope scope(ambient);
    const c10::InferenceMode inference;
    result.outputs = flatten_result(method_(std::move(positional), keyword));
  }
  return result;
}

}  // namespace torchpool
