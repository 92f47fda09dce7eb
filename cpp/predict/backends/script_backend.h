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
  // The arguments of a run: the tensors in their places, the other values as the caller passed them.
  virtual void arguments(std::vector<at::Tensor> inputs, std::vector<c10::IValue>& positional,
                         std::unordered_map<std::string, c10::IValue>& keyword) const = 0;
};

class ScriptBackend : public Backend {
 public:
  ScriptBackend(const torch::jit::Module& module, const std::string& method);
  const c10::FunctionSchema& schema() const { return method_.function().getSchema(); }
  std::string name() const override { return "torchscript"; }
  Lane lane() const noexcept override { return Lane::kCompute; }
  bool runs_module() const noexcept override { return true; }
  BackendResult run(const CallForm& form, std::vector<at::Tensor> inputs, const AmbientState* ambient,
                    WorkerContext& context) override;

 private:
  torch::jit::Method method_;
};

// The tensors of a script's result, in the order of its containers. Numbers, strings and None in the result are the
// same in every run, or the contract would not merge; the result's form holds them.
std::vector<at::Tensor> flatten_result(const c10::IValue& result);

}  // namespace torchpool
