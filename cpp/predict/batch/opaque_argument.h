#pragma once

#include <compare>
#include <string>

namespace torchpool {

// An argument of a call that cannot be taken apart.
struct OpaqueArgument {
  std::string path;  // position or keyword, and the path inside, as a tensor's
  std::string type;  // its name; empty: there is no such argument

  bool empty() const noexcept { return type.empty(); }
  friend auto operator<=>(const OpaqueArgument&, const OpaqueArgument&) = default;
};

}  // namespace torchpool
