// torchpool::linear and torchpool::pack_linear, the operators that graphs compute linear layers with.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "predict/kernels/linear.h"

namespace torchpool::kernels {

// What linear() computes with: the kernel of chosen().
const LinearKernel& present_linear_kernel();

// The weight, [outputs, k], or [k, outputs] where `transposed`, and the bias, if any, for this process's kernel. Both
// are fp32. `storage`: fp32, bf16, fp16 or int8, how the weight is stored; the result's dtype tells which.
at::Tensor pack_linear(const at::Tensor& weight, const std::optional<at::Tensor>& bias, bool transposed,
                       std::string_view storage = "fp32");

// [..., k] -> [..., outputs], by packed weights. `activation`: none, relu, silu, gelu or gelu_tanh; `residual` is
// added after it and has the result's sizes; `norm`: none, layer or rms, over the outputs of a row, with `gain` and
// `shift` of [outputs]. A large product is split among as many threads as ATen's own are; a row's bits depend on no
// other row, and not on the threads. Throws c10::Error for what does not fit together.
at::Tensor linear(const at::Tensor& input, const at::Tensor& packed, std::int64_t outputs, std::string_view activation,
                  const std::optional<at::Tensor>& residual, std::string_view norm,
                  const std::optional<at::Tensor>& gain, const std::optional<at::Tensor>& shift, double eps);

}  // namespace torchpool::kernels
