// The caller's thread-local state that changes what a model computes.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "bindings/interpreter/gil.h"
#include "predict/backends/backend.h"

namespace torchpool {

class PyAmbientState : public AmbientState {
 public:
  PyRef context;  // a contextvars.Context, or null where the caller has set no variable
};

struct Ambient {
  std::uint64_t torch_key = 0;  // 0: the plain state; part of a contract's identity
  bool must_run_here = false;   // torch modes or functorch are active, which cannot move to another thread
  std::shared_ptr<const PyAmbientState> state;  // null: plain
};

// Context variables, of which the values count; empty: of all.
using ContextVariables = std::optional<std::vector<PyRef>>;

// Equal for states of which a batch may be made; 0: the plain state. Requires the interpreter's lock.
std::uint64_t merge_key(const Ambient& ambient, const ContextVariables& variables);

// The state of the calling thread: autocast (on, dtype), and the values of its context variables. Requires the
// interpreter's lock. The plain state costs a few loads.
Ambient capture_ambient();

// Puts a captured state on this thread for a scope. Requires the lock.
class __attribute__((visibility("hidden"))) AmbientScope {
 public:
  explicit AmbientScope(const AmbientState* state);
  ~AmbientScope();
  AmbientScope(const AmbientScope&) = delete;
  AmbientScope& operator=(const AmbientScope&) = delete;

 private:
  AmbientTorchScope torch_;
  py::object context_;
};

}  // namespace torchpool
