#include "predict/graph/guard.h"

#include <c10/util/StringUtil.h>

namespace torchpool::graph {

std::optional<std::string> Guards::broken_by(const std::vector<at::Tensor>& inputs) const {
  for (const ShapeGuard& guard : ranges) {
    const std::int64_t size = inputs[guard.input].size(guard.dim);
    if (size < guard.low || size > guard.high) {
      return c10::str("the graph holds for dim ", guard.dim, " of input ", guard.input, " from ", guard.low, " to ",
                      guard.high, ", the batch has ", size);
    }
  }
  for (const EqualGuard& guard : equal) {
    const std::int64_t size = inputs[guard.input].size(guard.dim);
    const std::int64_t other = inputs[guard.other_input].size(guard.other_dim);
    if (size != other) {
      return c10::str("the graph holds for equal sizes of dim ", guard.dim, " of input ", guard.input, " and dim ",
                      guard.other_dim, " of input ", guard.other_input, ", the batch has ", size, " and ", other);
    }
  }
  return std::nullopt;
}

void Guards::check(const std::vector<at::Tensor>& inputs) const {
  if (const auto text = broken_by(inputs)) throw GuardFailed(*text);
}

}  // namespace torchpool::graph
