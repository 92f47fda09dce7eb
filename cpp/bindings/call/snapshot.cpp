#include "bindings/call/snapshot.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstring>

namespace torchpool {

at::Tensor copy_of(const at::Tensor& tensor) {
  if (!tensor.is_cpu() || !tensor.is_contiguous()) return tensor.clone();
  at::Tensor copy = at::empty(tensor.sizes(), tensor.options());
  std::memcpy(copy.mutable_data_ptr(), tensor.const_data_ptr(), tensor.nbytes());
  return copy;
}

py::tuple copy_arguments(const py::tuple& args, const py::dict& kwargs) {
  const auto copied = [](const py::handle& value) -> py::object {
    const bool small =
        THPVariable_CheckExact(value.ptr()) && THPVariable_Unpack(value.ptr()).nbytes() <= kSnapshotBytes;
    if (!small) return py::reinterpret_borrow<py::object>(value);
    return py::reinterpret_steal<py::object>(THPVariable_Wrap(THPVariable_Unpack(value.ptr()).detach().clone()));
  };
  py::tuple new_args(args.size());
  for (std::size_t i = 0; i < args.size(); ++i) new_args[i] = copied(args[i]);
  py::dict new_kwargs;
  for (const auto& [name, value] : kwargs) new_kwargs[name] = copied(value);
  return py::make_tuple(new_args, new_kwargs);
}

std::vector<at::Tensor> tensors_among(const py::tuple& args, const py::dict& kwargs) {
  std::vector<at::Tensor> tensors;
  const auto take = [&tensors](const py::handle& value) {
    if (THPVariable_CheckExact(value.ptr())) tensors.push_back(THPVariable_Unpack(value.ptr()));
  };
  for (const py::handle value : args) take(value);
  for (const auto& [name, value] : kwargs) take(value);
  return tensors;
}

}  // namespace torchpool
