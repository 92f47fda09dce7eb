#include "predict/batch/difference.h"

#include <ATen/Functions.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstdio>

namespace torchpool {

namespace {

double rounding_of_type(at::ScalarType type) noexcept {
  if (!at::isFloatingType(type) && !at::isComplexType(type)) return 0;
  switch (at::toRealValueType(type)) {
    case at::kDouble:
      return 1e-12;
    case at::kFloat:
      return 1e-5;
    case at::kHalf:
      return 5e-3;
    default:  // bfloat16, and what has even fewer bits
      return 5e-2;
  }
}

bool rounds(const at::Tensor& tensor) noexcept {
  return rounding_of_type(tensor.scalar_type()) > 0;
}

at::Tensor as_doubles(const at::Tensor& tensor) {
  return (tensor.is_complex() ? at::view_as_real(tensor.resolve_conj()) : tensor).to(at::kCPU, at::kDouble);
}

double largest_of(const at::Tensor& doubles, const at::Tensor& finite) {
  return doubles.numel() == 0 ? 0.0 : at::where(finite, doubles.abs(), 0.0).max().item<double>();
}

// Not a number, infinite or minus infinite: which, and 0 elsewhere.
at::Tensor special(const at::Tensor& doubles, const at::Tensor& finite) {
  return at::where(finite, 0.0, doubles).nan_to_num(2.0, 1.0, -1.0);
}

std::optional<std::string> difference_of(const at::Tensor& alone, const at::Tensor& in_batch, double largest,
                                         double rounding) {
  if (alone.sizes() != in_batch.sizes()) return c10::str("has shape ", in_batch.sizes(), ", alone ", alone.sizes());
  if (alone.scalar_type() != in_batch.scalar_type()) {
    return c10::str("has dtype ", in_batch.dtype().name(), ", alone ", alone.dtype().name());
  }
  if (alone.numel() == 0) return std::nullopt;
  if (!rounds(alone)) {
    const auto unequal = alone.ne(in_batch).sum().item<std::int64_t>();
    if (unequal == 0) return std::nullopt;
    return c10::str("differs in ", unequal, " of ", alone.numel(), " values");
  }
  const at::Tensor own = as_doubles(alone);
  const at::Tensor others = as_doubles(in_batch);
  const at::Tensor finite = own.isfinite();
  if (!at::equal(special(own, finite), special(others, others.isfinite()))) {
    return "differs in which values are not finite";
  }
  const double apart = largest_of(at::sub(own, others), finite);
  const double scale = std::max(largest_of(own, finite), largest);
  if (apart <= rounding * scale) return std::nullopt;
  char share[32];
  std::snprintf(share, sizeof share, "%.1e", apart / scale);
  return c10::str("differs by ", share, " of the largest value");
}

}  // namespace

double rounding_of(const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& outputs) {
  double coarsest = 0;
  for (const auto* tensors : {&inputs, &outputs}) {
    for (const at::Tensor& tensor : *tensors) coarsest = std::max(coarsest, rounding_of_type(tensor.scalar_type()));
  }
  return coarsest;
}

std::vector<double> largest_finite(const std::vector<at::Tensor>& tensors) {
  std::vector<double> largest;
  for (const at::Tensor& tensor : tensors) {
    if (!rounds(tensor)) {
      largest.push_back(0);
      continue;
    }
    const at::Tensor doubles = as_doubles(tensor);
    largest.push_back(largest_of(doubles, doubles.isfinite()));
  }
  return largest;
}

std::optional<std::string> difference(const Contract& contract, const std::vector<at::Tensor>& alone,
                                      const std::vector<at::Tensor>& in_batch, const std::vector<double>& largest,
                                      double rounding) {
  if (alone.size() != in_batch.size()) {
    return c10::str("the model returned ", in_batch.size(), " tensors, alone ", alone.size());
  }
  for (std::size_t i = 0; i < alone.size(); ++i) {
    if (const auto text = difference_of(alone[i], in_batch[i], largest[i], rounding)) {
      return c10::str("output '", contract.outputs[i].name, "' ", *text);
    }
  }
  return std::nullopt;
}

}  // namespace torchpool
