// What follows a product, for the vectors of an instruction set. See Note [One file an instruction set].
#pragma once

#include <cstdint>
#include <numbers>

#include "predict/kernels/linear.h"
#include "predict/kernels/vector.h"

namespace torchpool::kernels {
namespace {

// NaN stays NaN in all of these.

// Infinite from 88.4 on, and never subnormal.
template <class V>
TP_ALWAYS_INLINE typename V::Reg exp_of(typename V::Reg x) {
  x = V::min(V::set(89.0F), V::max(V::set(-87.33F), x));
  const auto n = V::round(V::mul(x, V::set(std::numbers::log2e_v<float>)));
  // ln 2 in two parts, of which the first has few enough bits for an exact product.
  auto r = V::fma(n, V::set(-0.693359375F), x);  // NOLINT(modernize-use-std-numbers)
  r = V::fma(n, V::set(2.12194440e-4F), r);
  auto p = V::set(1.9875691500e-4F);
  p = V::fma(p, r, V::set(1.3981999507e-3F));
  p = V::fma(p, r, V::set(8.3334519073e-3F));
  p = V::fma(p, r, V::set(4.1665795894e-2F));
  p = V::fma(p, r, V::set(1.6666665459e-1F));
  p = V::fma(p, r, V::set(5.0000001201e-1F));
  p = V::add(V::fma(p, V::mul(r, r), r), V::set(1.0F));
  return V::mul(p, V::power_of_two(n));
}

// x / (1 + exp(-y))
template <class V>
TP_ALWAYS_INLINE typename V::Reg gated(typename V::Reg x, typename V::Reg y) {
  return V::div(x, V::add(V::set(1.0F), exp_of<V>(V::sub(V::zero(), y))));
}

// The error function as a rational one, of degrees 13 and 8.
template <class V>
TP_ALWAYS_INLINE typename V::Reg erf_of(typename V::Reg x) {
  const auto z = V::min(V::set(4.0F), V::max(V::set(-4.0F), x));
  const auto s = V::mul(z, z);
  auto p = V::set(-2.72614225801306e-10F);
  auto q = V::set(-1.45660718464996e-05F);
  p = V::fma(p, s, V::set(2.77068142495902e-08F));
  q = V::fma(q, s, V::set(-2.13374055278905e-04F));
  p = V::fma(p, s, V::set(-2.10102402082508e-06F));
  q = V::fma(q, s, V::set(-1.68282697438203e-03F));
  p = V::fma(p, s, V::set(-5.69250639462346e-05F));
  q = V::fma(q, s, V::set(-7.37332916720468e-03F));
  p = V::fma(p, s, V::set(-7.34990630326855e-04F));
  q = V::fma(q, s, V::set(-1.42647390514189e-02F));
  p = V::fma(p, s, V::set(-2.95459980854025e-03F));
  p = V::fma(p, s, V::set(-1.60960333262415e-02F));
  return V::min(V::set(1.0F), V::max(V::set(-1.0F), V::div(V::mul(z, p), q)));
}

template <class V, Activation kActivation>
TP_ALWAYS_INLINE typename V::Reg activated(typename V::Reg x) {
  if constexpr (kActivation == Activation::kRelu) return V::max(V::zero(), x);
  if constexpr (kActivation == Activation::kSilu) return gated<V>(x, x);
  if constexpr (kActivation == Activation::kGelu) {
    const auto half = V::mul(x, V::set(0.5F));
    return V::fma(half, erf_of<V>(V::mul(x, V::set(0.70710678118F))), half);
  }
  if constexpr (kActivation == Activation::kGeluTanh) {
    // x / 2 (1 + tanh y) = x / (1 + exp(-2 y))
    const auto square = V::mul(x, x);
    return gated<V>(x, V::mul(x, V::fma(square, V::set(0.0713548162726F), V::set(1.59576912161F))));
  }
  return x;
}

// The activation and the residual of some outputs of some rows, which have just been written.
template <class V, Activation kActivation, bool kResidual>
void finish_as(float* y, std::int64_t y_stride, const float* residual, std::int64_t residual_stride, int rows,
               int width) {
  for (int row = 0; row < rows; ++row, y += y_stride) {
    int j = 0;
    for (; j + V::kLanes <= width; j += V::kLanes) {
      auto value = activated<V, kActivation>(V::load(y + j));
      if constexpr (kResidual) value = V::add(value, V::load(residual + j));
      V::store(y + j, value);
    }
    if (j < width) {
      auto value = activated<V, kActivation>(V::load_part(y + j, width - j));
      if constexpr (kResidual) value = V::add(value, V::load_part(residual + j, width - j));
      V::store_part(y + j, value, width - j);
    }
    if constexpr (kResidual) residual += residual_stride;
  }
}

template <class V, Activation kActivation>
void finish_with(const LinearCall& call, float* y, const float* residual, int rows, int width) {
  if (residual != nullptr) {
    finish_as<V, kActivation, true>(y, call.y_stride, residual, call.residual_stride, rows, width);
  } else if constexpr (kActivation != Activation::kNone) {
    finish_as<V, kActivation, false>(y, call.y_stride, nullptr, 0, rows, width);
  }
}

// Of `width` outputs from `output` on.
template <class V>
void finish(const LinearCall& call, std::int64_t row, int rows, std::int64_t output, int width) {
  float* y = call.y + row * call.y_stride + output;
  const float* residual = call.residual == nullptr ? nullptr : call.residual + row * call.residual_stride + output;
  switch (call.activation) {
    case Activation::kNone:
      return finish_with<V, Activation::kNone>(call, y, residual, rows, width);
    case Activation::kRelu:
      return finish_with<V, Activation::kRelu>(call, y, residual, rows, width);
    case Activation::kSilu:
      return finish_with<V, Activation::kSilu>(call, y, residual, rows, width);
    case Activation::kGelu:
      return finish_with<V, Activation::kGelu>(call, y, residual, rows, width);
    case Activation::kGeluTanh:
      return finish_with<V, Activation::kGeluTanh>(call, y, residual, rows, width);
  }
}

template <class V>
TP_ALWAYS_INLINE float sum_of(typename V::Reg x) {
  float lanes[V::kLanes];
  V::store(lanes, x);
  for (int half = V::kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// The mean of term(x) over the n values of a row; 0 beyond its end stands for no value.
template <class V, class Term>
TP_ALWAYS_INLINE float mean_of(const float* row, std::int64_t n, Term term) {
  constexpr std::int64_t kStep = V::kLanes;
  auto s0 = V::zero();
  auto s1 = V::zero();
  auto s2 = V::zero();
  auto s3 = V::zero();
  std::int64_t i = 0;
  for (; i + 4 * kStep <= n; i += 4 * kStep) {
    s0 = V::add(s0, term(V::load(row + i)));
    s1 = V::add(s1, term(V::load(row + i + kStep)));
    s2 = V::add(s2, term(V::load(row + i + 2 * kStep)));
    s3 = V::add(s3, term(V::load(row + i + 3 * kStep)));
  }
  for (; i + kStep <= n; i += kStep) s0 = V::add(s0, term(V::load(row + i)));
  if (i < n) {
    const int left = static_cast<int>(n - i);
    s1 = V::add(s1, V::keep(term(V::load_part(row + i, left)), left));
  }
  return sum_of<V>(V::add(V::add(s0, s1), V::add(s2, s3))) / static_cast<float>(n);
}

// In place, over a row that is in the cache.
template <class V>
void normalise_row(const LinearCall& call, float* row) {
  using Reg = typename V::Reg;
  const float mean =
      call.norm == Norm::kLayer ? mean_of<V>(row, call.n, [](Reg x) TP_INLINE_LAMBDA { return x; }) : 0.0F;
  const Reg centre = V::set(mean);
  const float variance = mean_of<V>(row, call.n, [centre](Reg x) TP_INLINE_LAMBDA {
    const Reg off = V::sub(x, centre);
    return V::mul(off, off);
  });
  const Reg scale = V::set(1.0F / __builtin_sqrtf(variance + call.eps));
  for (std::int64_t i = 0; i < call.n; i += V::kLanes) {
    const std::int64_t left = call.n - i;
    const bool whole = left >= V::kLanes;
    const int count = whole ? V::kLanes : static_cast<int>(left);
    const auto read = [&](const float* from)
                          TP_INLINE_LAMBDA { return whole ? V::load(from + i) : V::load_part(from + i, count); };
    Reg value = V::mul(V::sub(read(row), centre), scale);
    if (call.gain != nullptr) value = V::mul(value, read(call.gain));
    if (call.shift != nullptr) value = V::add(value, read(call.shift));
    if (whole) {
      V::store(row + i, value);
    } else {
      V::store_part(row + i, value, count);
    }
  }
}

template <class V>
void normalise(const LinearCall& call, Span rows) {
  for (std::int64_t row = rows.begin; row < rows.end; ++row) normalise_row<V>(call, call.y + row * call.y_stride);
}

}  // namespace
}  // namespace torchpool::kernels
