#include "predict/kernels/operators.h"

#include <torch/library.h>

#include <optional>
#include <string>

#include "predict/kernels/isa.h"
#include "predict/kernels/rnn_op.h"

namespace torchpool::kernels {

void register_operators() {
  chosen();
  // Never deleted: workers may run programs while statics are destroyed.
  [[maybe_unused]] static const torch::Library* const library = [] {
    auto made = new torch::Library(torch::Library::FRAGMENT, "torchpool", std::nullopt, __FILE__, __LINE__);
    made->def("isa() -> str", [] { return std::string(name_of(chosen())); });
    define_rnn(*made);
    return made;
  }();
}

}  // namespace torchpool::kernels
