// Copies of what is submitted, so that its owner may write to it.
#pragma once

#include <ATen/core/Tensor.h>

#include "bindings/interpreter/gil.h"

namespace torchpool {

// A submitted input up to this size is copied at the call: the copy costs less than the trouble of an input that
// changes under a waiting batch. Above it, a change is detected and refused.
constexpr std::size_t kSnapshotBytes = std::size_t{64} << 10;

at::Tensor copy_of(const at::Tensor& tensor);

// (args, kwargs) of a call that cannot be taken apart, with those tensors copied that stand among the arguments
// themselves: one inside another object is the caller's to leave alone. Requires the interpreter's lock.
py::tuple copy_arguments(const py::tuple& args, const py::dict& kwargs);
// The tensors that copy_arguments() looks at. Requires the interpreter's lock.
std::vector<at::Tensor> tensors_among(const py::tuple& args, const py::dict& kwargs);

}  // namespace torchpool
