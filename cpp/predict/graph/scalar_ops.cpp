#include "predict/graph/scalar_ops.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/sync/error.h"
#include "predict/graph/guard.h"

namespace torchpool::graph {

namespace {

constexpr std::array kNames = {
    std::pair{std::string_view("add"), ScalarOp::kAdd},
    std::pair{std::string_view("sub"), ScalarOp::kSub},
    std::pair{std::string_view("mul"), ScalarOp::kMul},
    std::pair{std::string_view("floordiv"), ScalarOp::kFloorDiv},
    std::pair{std::string_view("truediv"), ScalarOp::kTrueDiv},
    std::pair{std::string_view("mod"), ScalarOp::kMod},
    std::pair{std::string_view("pow"), ScalarOp::kPow},
    std::pair{std::string_view("neg"), ScalarOp::kNeg},
    std::pair{std::string_view("abs"), ScalarOp::kAbs},
    std::pair{std::string_view("min"), ScalarOp::kMin},
    std::pair{std::string_view("max"), ScalarOp::kMax},
    std::pair{std::string_view("eq"), ScalarOp::kEq},
    std::pair{std::string_view("ne"), ScalarOp::kNe},
    std::pair{std::string_view("lt"), ScalarOp::kLt},
    std::pair{std::string_view("le"), ScalarOp::kLe},
    std::pair{std::string_view("gt"), ScalarOp::kGt},
    std::pair{std::string_view("ge"), ScalarOp::kGe},
    std::pair{std::string_view("and"), ScalarOp::kAnd},
    std::pair{std::string_view("or"), ScalarOp::kOr},
    std::pair{std::string_view("not"), ScalarOp::kNot},
    std::pair{std::string_view("int"), ScalarOp::kInt},
    std::pair{std::string_view("float"), ScalarOp::kFloat},
    std::pair{std::string_view("bool"), ScalarOp::kBool},
    std::pair{std::string_view("ceil"), ScalarOp::kCeil},
    std::pair{std::string_view("floor"), ScalarOp::kFloor},
    std::pair{std::string_view("trunc"), ScalarOp::kTrunc},
    std::pair{std::string_view("round"), ScalarOp::kRound},
    std::pair{std::string_view("sqrt"), ScalarOp::kSqrt},
    std::pair{std::string_view("assert"), ScalarOp::kAssert},
};

constexpr auto kDividesByZero = "a size expression of the graph divides by zero";

bool is_real(const c10::IValue& value) {
  return value.isDouble();
}

double real(const c10::IValue& value) {
  if (value.isDouble()) return value.toDouble();
  if (value.isBool()) return value.toBool() ? 1.0 : 0.0;
  return static_cast<double>(value.toInt());
}

std::int64_t whole(const c10::IValue& value) {
  if (value.isBool()) return value.toBool() ? 1 : 0;
  return value.toInt();
}

bool truth(const c10::IValue& value) {
  return is_real(value) ? real(value) != 0.0 : whole(value) != 0;
}

std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  if (b == 0) throw Error(kDividesByZero);
  return a / b - static_cast<std::int64_t>(a % b != 0 && (a < 0) != (b < 0));
}

c10::IValue power(double base, double exponent) {
  return std::pow(base, exponent);
}

c10::IValue power(std::int64_t base, std::int64_t exponent) {
  if (exponent < 0) return power(static_cast<double>(base), static_cast<double>(exponent));
  std::int64_t result = 1;
  for (; exponent > 0; --exponent) result *= base;
  return result;
}

std::int64_t modulo(std::int64_t a, std::int64_t b) {
  return a - floor_div(a, b) * b;
}

double floor_div(double a, double b) {
  if (b == 0.0) throw Error(kDividesByZero);
  return std::floor(a / b);
}

double modulo(double a, double b) {
  if (b == 0.0) throw Error(kDividesByZero);
  const double rest = std::fmod(a, b);
  return rest != 0.0 && (rest < 0.0) != (b < 0.0) ? rest + b : rest;
}

template <typename Number>
c10::IValue of_two(ScalarOp op, Number a, Number b) {
  switch (op) {
    case ScalarOp::kAdd:
      return a + b;
    case ScalarOp::kSub:
      return a - b;
    case ScalarOp::kMul:
      return a * b;
    case ScalarOp::kFloorDiv:
      return floor_div(a, b);
    case ScalarOp::kMod:
      return modulo(a, b);
    case ScalarOp::kPow:
      return power(a, b);
    case ScalarOp::kMin:
      return std::min(a, b);
    case ScalarOp::kMax:
      return std::max(a, b);
    case ScalarOp::kEq:
      return a == b;
    case ScalarOp::kNe:
      return a != b;
    case ScalarOp::kLt:
      return a < b;
    case ScalarOp::kLe:
      return a <= b;
    case ScalarOp::kGt:
      return a > b;
    case ScalarOp::kGe:
      return a >= b;
    default:
      throw Error("not an operation on two numbers");
  }
}

c10::IValue of_one(ScalarOp op, const c10::IValue& a) {
  switch (op) {
    case ScalarOp::kNeg:
      return is_real(a) ? c10::IValue(-real(a)) : c10::IValue(-whole(a));
    case ScalarOp::kAbs:
      return is_real(a) ? c10::IValue(std::abs(real(a))) : c10::IValue(std::abs(whole(a)));
    case ScalarOp::kNot:
      return !truth(a);
    case ScalarOp::kBool:
      return truth(a);
    case ScalarOp::kFloat:
      return real(a);
    case ScalarOp::kSqrt:
      return std::sqrt(real(a));
    case ScalarOp::kCeil:
      return is_real(a) ? static_cast<std::int64_t>(std::ceil(real(a))) : whole(a);
    case ScalarOp::kFloor:
      return is_real(a) ? static_cast<std::int64_t>(std::floor(real(a))) : whole(a);
    case ScalarOp::kInt:
    case ScalarOp::kTrunc:
      return is_real(a) ? static_cast<std::int64_t>(std::trunc(real(a))) : whole(a);
    case ScalarOp::kRound:  // to even, as Python does
      return is_real(a) ? static_cast<std::int64_t>(std::nearbyint(real(a))) : whole(a);
    default:
      throw Error("not an operation on one number");
  }
}

}  // namespace

std::optional<ScalarOp> scalar_op(std::string_view name) {
  for (const auto& [known, op] : kNames) {
    if (known == name) return op;
  }
  return std::nullopt;
}

c10::IValue apply(ScalarOp op, std::span<const c10::IValue> arguments) {
  if (op == ScalarOp::kAssert) {
    if (!truth(arguments[0])) throw GuardFailed(arguments[1].toStringRef());
    return {};
  }
  if (arguments.size() == 1) return of_one(op, arguments[0]);
  const c10::IValue& a = arguments[0];
  const c10::IValue& b = arguments[1];
  if (op == ScalarOp::kAnd) return truth(a) && truth(b);
  if (op == ScalarOp::kOr) return truth(a) || truth(b);
  if (op == ScalarOp::kTrueDiv) {
    if (real(b) == 0.0) throw Error(kDividesByZero);
    return real(a) / real(b);
  }
  return is_real(a) || is_real(b) ? of_two(op, real(a), real(b)) : of_two(op, whole(a), whole(b));
}

}  // namespace torchpool::graph
