#include "predict/backends/backend.h"

#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

#include <new>
#include <string_view>

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

bool is_out_of_memory(const std::exception_ptr& error) noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const ModelError& raised) {
    return raised.out_of_memory();
  } catch (const std::bad_alloc&) {
    return true;
  } catch (const c10::OutOfMemoryError&) {
    return true;
  } catch (const c10::Error& raised) {  // of torch's allocator on the CPU, which has no type of its own
    return std::string_view(raised.what_without_backtrace()).find("can't allocate memory") != std::string_view::npos;
  } catch (...) {
    return false;
  }
}

}  // namespace torchpool
