// An exported graph's arithmetic on sizes and other Python numbers, outside of tensors.
#pragma once

#include <ATen/core/ivalue.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace torchpool::graph {

enum class ScalarOp : std::uint8_t {
  kAdd,
  kSub,
  kMul,
  kFloorDiv,
  kTrueDiv,
  kMod,
  kPow,
  kNeg,
  kAbs,
  kMin,
  kMax,
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kAnd,
  kOr,
  kNot,
  kInt,
  kFloat,
  kBool,
  kCeil,
  kFloor,
  kTrunc,
  kRound,
  kSqrt,
  kAssert,
};

// The operation of a name such as "floordiv"; empty for an unknown name.
std::optional<ScalarOp> scalar_op(std::string_view name);

// The result, with Python's rules (an int stays an int, floor division rounds down, % has the divisor's sign). Integers
// are 64 bits wide. kAssert throws GuardFailed with its second argument unless its first one is true.
c10::IValue apply(ScalarOp op, std::span<const c10::IValue> arguments);

}  // namespace torchpool::graph
