// Which inputs a captured graph holds for, beyond its contract.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "core/sync/error.h"

namespace torchpool::graph {

// The graph does not hold for these inputs; the module itself may take them.
class GuardFailed : public Error {
 public:
  using Error::Error;
};

// The size of an input's dim lies within bounds; or equals another dim's.
struct ShapeGuard {
  std::size_t input = 0;
  std::int64_t dim = 0;
  std::int64_t low = 0;
  std::int64_t high = std::numeric_limits<std::int64_t>::max();
};
struct EqualGuard {
  std::size_t input = 0;
  std::int64_t dim = 0;
  std::size_t other_input = 0;
  std::int64_t other_dim = 0;
};

struct Guards {
  std::vector<ShapeGuard> ranges;
  std::vector<EqualGuard> equal;
  // What does not hold for a batch's inputs, in words that name the input and the bound; or nothing.
  std::optional<std::string> broken_by(const std::vector<at::Tensor>& inputs) const;
  // Throws GuardFailed with these words.
  void check(const std::vector<at::Tensor>& inputs) const;
};

}  // namespace torchpool::graph
