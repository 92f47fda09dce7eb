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

// How a call's tensors sit among its arguments, and which other values the call had. The bindings read a form; the
// layers below only pass it on.
class CallForm {
 public:
  virtual ~CallForm() = default;
};

// How the tensors of a result sit in the model's own output type, and which other values the result has.
class ResultForm {
 public:
  virtual ~ResultForm() = default;
  // Requires: both are of one backend, and the step is still in its lane's gate.
  virtual bool same_as(const ResultForm& other) const noexcept = 0;
};

struct BackendResult {
  std::vector<at::Tensor> outputs;
  std::shared_ptr<const ResultForm> form;  // null: of a backend that knows tensors only
};

// The caller's thread-local state that a run must see (autocast, ...). A null pointer stands for the plain state.
class AmbientState {
 public:
  virtual ~AmbientState() = default;
  at::ThreadLocalState torch_state;
};

// Puts a captured torch state on this thread for a scope. Null: the thread's state stays.
class AmbientTorchScope {
 public:
  explicit AmbientTorchScope(const AmbientState* state);

 private:
  std::optional<at::ThreadLocalStateGuard> torch_;
  std::optional<c10::InferenceMode> inference_;
};

// An exception of the model: what this layer may know of one.
class ModelError : public std::exception {
 public:
  // Whether the model ran out of memory: with fewer rows it may succeed.
  virtual bool out_of_memory() const noexcept = 0;
};

// Whether it says that memory is full, of the model or of torch's allocators.
bool is_out_of_memory(const std::exception_ptr& error) noexcept;

// Several workers may call run() at once. run() may drop the tensors that are handed over.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;
  virtual Lane lane() const noexcept = 0;
  // Throws what the model raises. No other owner of the returned tensors may drop them later under a lock that a worker
  // must not wait for.
  virtual BackendResult run(const CallForm& form, std::vector<at::Tensor> inputs, const AmbientState* ambient,
                            WorkerContext& context) = 0;
  // Whether the module itself runs, which answers whatever it is called with. If not, the backend holds for batches of
  // one contract only.
  virtual bool runs_module() const noexcept { return false; }
  // Whether a run comes to no code of the user's, or of anyone who might run another batch inside.
  virtual bool runs_operators_only() const noexcept { return false; }
  // The backend's own work, done behind the calls. upkeep_due() is asked after a batch whose callers have their
  // results.
  virtual bool upkeep_due() const noexcept { return false; }
  virtual void upkeep() {}
};

}  // namespace torchpool
