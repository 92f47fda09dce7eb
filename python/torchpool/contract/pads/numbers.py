"""What is known of a value's numbers: bounds, places, and whether an operator may give numbers that are not finite."""

from __future__ import annotations

import math

import torch

from torchpool.contract.pads.domain import Number, Pad, Ramp
from torchpool.contract.pads.op import Op, Operand

KEEPS = frozenset({
    "clone", "contiguous", "to", "type_as", "_to_copy", "detach", "alias", "lift_fresh_copy", "lift_fresh", "positive",
})  # fmt: skip
"""Entries stay as they are, but for their dtype."""
# Finite for what is finite: none of them divides, takes roots or logarithms, or has poles.
_ALWAYS = KEEPS | frozenset({
    "abs", "absolute", "add", "sub", "subtract", "rsub", "mul", "multiply", "neg", "negative", "exp", "expm1",
    "sigmoid", "tanh", "relu", "relu6", "gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "hardtanh",
    "hardswish", "hardsigmoid", "softplus", "log_sigmoid", "softsign", "tanhshrink", "hardshrink", "softshrink",
    "threshold", "sin", "cos", "atan", "arctan", "erf", "erfc", "floor", "ceil", "round", "trunc", "fix", "sign",
    "sgn", "clamp", "clamp_min", "clamp_max", "clip", "max", "maximum", "min", "minimum", "fmax", "fmin", "where",
    "masked_fill",
    "square", "addcmul", "lerp", "nan_to_num", "fill", "zero", "eq", "ne", "lt", "le", "gt", "ge", "less",
    "less_equal", "greater", "greater_equal", "not_equal", "logical_and", "logical_or", "logical_not", "logical_xor",
    "bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor", "__and__", "__or__", "__xor__", "isnan", "isinf",
    "isfinite", "isclose", "deg2rad", "rad2deg", "heaviside", "copysign", "frac", "sinc", "resolve_conj",
    "resolve_neg", "copy",
})  # fmt: skip
_DIVIDES = frozenset({"div", "divide", "true_divide", "floor_divide", "remainder", "fmod"})
_ABOVE_ZERO = frozenset({"log", "log2", "log10", "rsqrt", "reciprocal"})


def least_of(operand: Operand) -> Number | None:
    """A bound below all entries of a tensor or number; None where there is none."""
    if not operand.is_tensor:
        return operand.value if isinstance(operand.value, int | float) else None
    kept = operand.kept
    if kept.value is not None:
        return kept.value
    if operand.value.dtype == torch.bool:
        return 0
    if kept.least is not None:
        return kept.least
    ramp = kept.ramp
    return ramp.start if ramp is not None and all(factor >= 0 for _, factor in ramp.factors) else None


def stays_finite(op: Op) -> bool:
    """Whether a pointwise operator gives finite numbers for finite ones, also at padded places."""
    if op.name in _ALWAYS:
        return True
    if op.name in _DIVIDES:
        by = op.operand("other")
        if not by.is_tensor:
            return bool(by.value)
        return not by.kept.pads or _above_zero(by)
    if op.name in _ABOVE_ZERO:
        return _above_zero(op.operand("self"))
    if op.name == "sqrt":
        least = least_of(op.operand("self"))
        return least is not None and least >= 0
    if op.name == "pow":
        base, exponent = op.operand("self"), op.operand("exponent")
        if isinstance(exponent.value, int | float) and exponent.value >= 0 and exponent.value == int(exponent.value):
            return True
        return _above_zero(base)
    return False


def _above_zero(operand: Operand) -> bool:
    least = least_of(operand)
    return least is not None and least > 0


def bound_of(op: Op) -> Number | None:
    """A bound below all entries that a pointwise operator gives."""
    if op.name in ("abs", "relu", "relu6", "sigmoid", "exp", "square", "softplus", "hardsigmoid", "absolute"):
        return 0
    if op.name == "pow":
        exponent = op.get("exponent")
        return 0 if isinstance(exponent, int | float) and exponent > 0 and exponent % 2 == 0 else None
    if op.name in KEEPS:
        least = least_of(op.operand("self"))
        whole = not (op.result.dtype.is_floating_point or op.result.dtype.is_complex)
        return least if least is None or not whole else min(math.floor(least), 0) if least < 0 else math.floor(least)
    if op.name in ("clamp", "clamp_min", "clip"):
        bound = op.get("min")
        return bound if isinstance(bound, int | float) else least_of(op.operand("self"))
    if op.name in ("mul", "multiply", "add", "max", "maximum", "min", "where", "div"):
        return _of_two(op)
    return None


def _of_two(op: Op) -> Number | None:
    names = ("self", "other")
    if op.name == "mul" and op.get("self") is op.get("other"):
        return 0
    one, other = (least_of(op.operand(name)) for name in names)
    if op.name == "maximum":
        return max((least for least in (one, other) if least is not None), default=None)
    if one is None or other is None:
        return None
    if op.name == "where":
        return min(one, other)
    if op.name == "add":
        return one + other if op.get("alpha", 1) == 1 else None
    if op.name == "div":
        by = op.get("other")
        return one / by if one >= 0 and isinstance(by, int | float) and by > 0 and not op.has("rounding_mode") else None
    return one * other if one >= 0 and other >= 0 else None


# --- places -----------------------------------------------------------------------------------------------------------


def as_ramp(operand: Operand, rank: int) -> Ramp | None:
    """An operand's entries as places, its dims aligned at the right of `rank` dims."""
    if not operand.is_tensor:
        return Ramp((), operand.value) if type(operand.value) is int else None
    if operand.value.dtype not in (torch.int32, torch.int64):
        return None
    kept = operand.kept
    if kept.ramp is not None:
        more = rank - operand.rank
        return Ramp(tuple((dim + more, factor) for dim, factor in kept.ramp.factors), kept.ramp.start)
    return Ramp((), int(kept.value)) if kept.value is not None else None


def ramp_of(op: Op, rank: int) -> Ramp | None:
    """What a pointwise operator makes of places."""
    if op.result.dtype not in (torch.int32, torch.int64):
        return None
    if op.name in KEEPS:
        return as_ramp(op.operand("self"), rank)
    if op.name == "neg":
        found = as_ramp(op.operand("self"), rank)
        return None if found is None else found.times(-1)
    if op.name in ("add", "sub") and op.get("alpha", 1) == 1:
        one, other = (as_ramp(op.operand(name), rank) for name in ("self", "other"))
        return None if one is None or other is None else one.plus(other.times(1 if op.name == "add" else -1))
    return None


_LONG = {"less_equal": "le", "less": "lt", "greater": "gt", "greater_equal": "ge", "not_equal": "ne"}


def compared(op: Op, pads: tuple[Pad, ...], dim: int, rank: int) -> bool | None:
    """What a comparison of places gives wherever the place in `dim` is padded; None where that is not one answer."""
    name = _LONG.get(op.name, op.name)
    if name not in ("le", "lt", "gt", "ge", "eq", "ne"):
        return None
    one, other = (as_ramp(op.operand(of), rank) for of in ("self", "other"))
    if one is None or other is None:
        return None
    difference = one.plus(other.times(-1))
    low, below = _least(difference, pads, dim), _least(difference.times(-1), pads, dim)
    high = None if below is None else -below
    if low is not None and (low > 0 or (low == 0 and name in ("ge", "lt"))):
        return name in ("gt", "ge", "ne")
    if high is not None and (high < 0 or (high == 0 and name in ("le", "gt"))):
        return name in ("lt", "le", "ne")
    return None


def _least(ramp: Ramp, pads: tuple[Pad, ...], dim: int) -> int | None:
    """The least entry whose place in `dim` is padded, for any length n >= 1; None where there is none."""
    extra = {pad.dim: pad.extra for pad in pads}
    factors = dict(ramp.factors)
    if factors.get(dim, 0) <= 0 or any(d not in extra for d in factors):
        return None
    slope, found = factors[dim], ramp.start + factors[dim] * extra[dim]
    for other, factor in factors.items():
        if other != dim and factor < 0:  # least at the last kept place
            slope += factor
            found += factor * (extra[other] - 1)
    return found + slope if slope >= 0 else None
