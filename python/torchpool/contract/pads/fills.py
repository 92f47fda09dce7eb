"""What entries at padded places are, once an operator has computed each from the entries at its place."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from torchpool.contract.pads.domain import Fill, Number
from torchpool.contract.pads.numbers import KEEPS
from torchpool.contract.pads.op import Op, Operand

LOW = -1e9
"""A score at most this gets no weight in a softmax beside one of ordinary size: exp of the difference is 0."""


def low_enough(value: Number, dtype: torch.dtype) -> bool:
    """Whether a score of this value gets no weight beside one of ordinary size."""
    return value <= LOW or (dtype == torch.float16 and value <= torch.finfo(dtype).min / 2)


PASS_NAN = KEEPS | frozenset({"add", "sub", "rsub", "mul", "multiply", "neg", "div", "gelu", "silu", "tanh"})
"""NaN of any operand is NaN of the result."""


def entry(operand: Operand, dim: int, rank: int) -> Fill | None:
    """What an operand, broadcast to `rank` dims, has at padded places of dim `dim`; None: not known."""
    own = dim - (rank - operand.rank)
    pad = operand.kept.pad(own) if own >= 0 else None
    if pad is not None:
        return pad.fill
    return None if operand.kept.value is None else Fill(operand.kept.value)


def at_padded(op: Op, operands: list[Operand], dim: int, rank: int) -> Fill | None:
    """What the result of a pointwise operator has at padded places of dim `dim`."""
    entries = {operand.node: entry(operand, dim, rank) for operand in operands if operand.node is not None}
    exact = {node: found for node, found in entries.items() if found is not None and not found.about}
    if len(exact) == len(entries):
        value = computed(op, {node: found.value for node, found in exact.items()})
        unless_nan = any(found.unless_nan for found in exact.values())
        if value is not None and unless_nan and op.name == "nan_to_num":
            unless_nan = bool(value != (op.get("nan") or 0))
        if value is not None and (not unless_nan or op.name in PASS_NAN):
            return Fill(value, unless_nan=unless_nan)
    by_rule = _BY_NAME.get(op.name)
    return None if by_rule is None else by_rule(op, dim, rank)


def computed(op: Op, values: dict[Node, Number]) -> Number | None:
    """What the operator gives for operands of one entry each; None where that cannot be computed."""

    def one(node: Node) -> torch.Tensor:
        like = node.meta["val"]
        return torch.full((1,) * min(like.dim(), 1), values[node], dtype=like.dtype)

    if any(
        not isinstance(node.meta.get("val"), torch.Tensor) or node not in values for node in op.node.all_input_nodes
    ):
        return None
    args = [_on_cpu(item) for item in map_arg(op.node.args, one)]
    kwargs = {name: _on_cpu(item) for name, item in map_arg(op.node.kwargs, one).items()}
    target: Any = op.node.target
    try:
        with torch.no_grad():
            found = target(*args, **kwargs)
    except (RuntimeError, NotImplementedError, TypeError, OverflowError):  # no kernel for this dtype, or for the cpu
        return None
    if not isinstance(found, torch.Tensor) or found.numel() != 1 or found.is_complex():
        return None
    value: Number = found.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _on_cpu(item: Any) -> Any:
    return torch.device("cpu") if isinstance(item, torch.device) else item


def _there(op: Op, name: str, dim: int, rank: int) -> Fill | None:
    """What an argument, a tensor or a number, has there."""
    operand = op.operand(name)
    if operand.is_tensor:
        return entry(operand, dim, rank)
    return Fill(operand.value) if isinstance(operand.value, int | float) else None


def _exact(op: Op, name: str, dim: int, rank: int) -> Number | None:
    """As `_there`, where it is nothing else in any case."""
    found = _there(op, name, dim, rank)
    return None if found is None or found.about or found.unless_nan else found.value


def _is_finite(op: Op, name: str) -> bool:
    operand = op.operand(name)
    return operand.kept.odd == "finite" if operand.is_tensor else math.isfinite(operand.value)


def _product(op: Op, dim: int, rank: int) -> Fill | None:
    for one, other in (("self", "other"), ("other", "self")):
        found = _there(op, one, dim, rank)
        if found is not None and not found.about and found.value == 0 and _is_finite(op, other):
            return Fill(_typed(op, 0), unless_nan=found.unless_nan)
    return _scaled(op, dim, rank)


def _sum(op: Op, dim: int, rank: int) -> Fill | None:
    """What is very low stays so beside numbers of ordinary size."""
    if op.get("alpha", 1) != 1:
        return None
    for one, other in (("self", "other"), ("other", "self")):
        if op.name == "sub" and one == "other":
            continue
        found, beside = _there(op, one, dim, rank), _there(op, other, dim, rank)
        if found is None or found.unless_nan:
            continue
        low_too = op.name == "add" and op.operand(other).kept.odd == "low"
        if found.value == -math.inf and (_is_finite(op, other) or low_too):
            return Fill(found.value)
        if not _is_finite(op, other):
            continue
        both = 0 if beside is None else beside.value if op.name == "add" else -beside.value
        if low_enough(found.value, op.result.dtype) and low_enough(found.value + both, op.result.dtype):
            return Fill(max(found.value + both, torch.finfo(op.result.dtype).min), about=True)
    return None


def _scaled(op: Op, dim: int, rank: int) -> Fill | None:
    """A very low number times a positive one."""
    found, by = _there(op, "self", dim, rank), op.get("other")
    if found is None or not found.about or not isinstance(by, int | float) or by <= 0 or op.has("rounding_mode"):
        return None
    value = found.value / by if op.name == "div" else found.value * by
    return Fill(value, about=True) if math.isfinite(value) and low_enough(value, op.result.dtype) else None


def _typed(op: Op, value: Number) -> Number:
    """As an entry of the result's dtype."""
    found: Number = torch.tensor(value).to(op.result.dtype).item()
    return found


def _all(op: Op, dim: int, rank: int) -> Fill | None:
    both = [_exact(op, name, dim, rank) for name in ("self", "other")]
    return Fill(_typed(op, 0)) if any(value is not None and value == 0 for value in both) else None


def _any(op: Op, dim: int, rank: int) -> Fill | None:
    if op.result.dtype != torch.bool:
        return None
    both = [_exact(op, name, dim, rank) for name in ("self", "other")]
    return Fill(True) if any(value is not None and value != 0 for value in both) else None


def _branch(op: Op, name: str, dim: int, rank: int) -> Fill | None:
    found = _there(op, name, dim, rank)
    if found is None or found.about:
        return found if found is not None and op.operand(name).value.dtype == op.result.dtype else None
    return Fill(_typed(op, found.value), unless_nan=found.unless_nan)


def _where(op: Op, dim: int, rank: int) -> Fill | None:
    condition = _exact(op, "condition", dim, rank)
    return None if condition is None else _branch(op, "self" if condition else "other", dim, rank)


def _masked(op: Op, dim: int, rank: int) -> Fill | None:
    mask = _exact(op, "mask", dim, rank)
    return None if mask is None else _branch(op, "value" if mask else "self", dim, rank)


def _copied(op: Op, dim: int, rank: int) -> Fill | None:
    """What is about a very low number stays so in a dtype that has such."""
    found = entry(op.operand("self"), dim, rank)
    if found is None or found.unless_nan or not op.result.dtype.is_floating_point:
        return None
    value = _typed(op, found.value)
    return Fill(value, about=math.isfinite(value)) if low_enough(value, op.result.dtype) else None


_BY_NAME = {
    **dict.fromkeys(("mul", "multiply"), _product),
    **dict.fromkeys(("add", "sub"), _sum),
    "div": _scaled,
    **dict.fromkeys(("__and__", "logical_and", "bitwise_and", "__iand__"), _all),
    **dict.fromkeys(("__or__", "logical_or", "bitwise_or", "__ior__"), _any),
    **dict.fromkeys(("to", "type_as", "_to_copy", "clone", "contiguous", "detach", "alias"), _copied),
    "where": _where,
    "masked_fill": _masked,
}
