// Runs scripted and traced modules through libtorch, without an interpreter.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "predict/backends/backend.h"

namespace torchpool {

// What the script backend needs of a call's form.
class ScriptCallForm : public CallForm {
 public:
  // The arguments of a run: tensors in their places, other values as they were passed.
  virtual void arguments(std::vector<at::Tensor> inputs, std::vector<c10::IValue>& positional,
                         std::unordered_map<std::string, c10::IValue>& keyword) const = 0;
};

class ScriptBackend : public Backend {
 public:
  ScriptBackend(const torch::jit::Module& module, const std::string& method);
  const c10::FunctionSchema& schema() const { return method_.function().getSchema(); }
  std::string name() const override { return "torchscript"; }
  Lane lane() const noexcept override { return Lane::kCompute; }
  BackendResult run(const CallForm& form, std::vector<at::Tensor> inputs, const AmbientState* ambient,
                    WorkerContext& context) override;

 private:
  torch::jit::Method method_;
};

// Tensors of a script's result in the order of its containers. Numbers, strings and None among them are the same in
// every run, or the contract would not merge; they stand in the result's form.
std::vector<at::Tensor> flatten_result(const c10::IValue& result);

}  // namespace torchpool
