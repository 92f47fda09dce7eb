#include "predict/backends/backend.h"

#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>

namespace torchpool {

AmbientTorchScope::AmbientTorchScope(const AmbientState* state) {
  if (state == nullptr) return;
  torch_.emplace(state->torch_state);
  inference_.emplace(false);  // what a module caches in forward must be fit for training later
  // The cache of casted weights is cleared when the caller leaves autocast; what a worker puts into it later would
  // outlive a change of the weights.
  at::autocast::set_autocast_cache_enabled(false);
  c10::GradMode::set_enabled(false);
}

}  // namespace torchpool
