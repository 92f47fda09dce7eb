// What runs a batch.
#pragma once

#include <ATen/ThreadLocalState.h>
#include <ATen/core/Tensor.h>
#include <c10/core/InferenceMode.h>

#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/schedule/task.h"

namespace torchpool {

// How a call's tensors sit among its arguments (and which other values it was called with). The bindings know; layers
// below pass it on.
class CallForm {
 public:
  virtual ~CallForm() = default;
};

// How the tensors of a result sit in the model's own output type.
class ResultForm {
 public:
  virtual ~ResultForm() = default;
};

struct BackendResult {
  std::vector<at::Tensor> outputs;
  std::shared_ptr<const ResultForm> form;
};

// The caller's thread-local state that a run must see (autocast, ...). Null where it is the plain one.
class AmbientState {
 public:
  virtual ~AmbientState() = default;
  at::ThreadLocalState torch_state;
};

// Puts a captured torch state on this thread for a scope; nothing for null.
class AmbientTorchScope {
 public:
  explicit AmbientTorchScope(const AmbientState* state);

 private:
  std::optional<at::ThreadLocalStateGuard> torch_;
  std::optional<c10::InferenceMode> inference_;
};

// What a model raised, as far as is to be known of it here.
class ModelError : public std::exception {
 public:
  // Memory could not hold what it needed: with fewer rows it may succeed.
  virtual bool out_of_memory() const noexcept = 0;
};

// Requires: run() may be called from several workers at once. The tensors handed over may be dropped by run().
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;
  virtual Lane lane() const noexcept = 0;
  // Whatever the model raises comes out as an exception. Returned tensors are referred to by nobody else who could
  // drop them later under a lock that a worker must not wait for.
  virtual BackendResult run(const CallForm& form, std::vector<at::Tensor> inputs, const AmbientState* ambient,
                            WorkerContext& context) = 0;
  // Work of its own, to be done behind the calls: asked for after a batch whose callers have their results.
  virtual bool upkeep_due() const noexcept { return false; }
  virtual void upkeep() {}
};

}  // namespace torchpool
