"""Operators that compute each entry from the entries at its place, and those that only copy."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from torchpool.contract.rows.constants import equal_along, one_entry
from torchpool.contract.rows.domain import (
    Claim,
    Claims,
    Ends,
    Iota,
    Packed,
    Rows,
    Uniform,
    agree,
    mixes,
)
from torchpool.contract.rows.op import Op, Operand
from torchpool.contract.rows.registry import rule
from torchpool.contract.rows.sizes import equal, size_of, whole

# Entries stay as they are: the number of a row, or a place in a list, is still one.
KEEPS = frozenset({
    "clone", "contiguous", "to", "type_as", "_to_copy", "detach", "alias", "lift_fresh_copy", "lift_fresh", "positive",
})  # fmt: skip
# Pointwise, and not tagged so by torch.
_MORE = KEEPS | frozenset({
    "__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "__iand__", "__ior__", "__ixor__", "__ilshift__",
    "__irshift__", "zero", "copy", "fill", "masked_fill", "resolve_conj", "resolve_neg", "conj", "_conj", "_neg_view",
    "real", "imag", "complex", "polar", "fake_quantize_per_tensor_affine", "log_sigmoid", "softsign", "tanhshrink",
    "hardswish", "fix", "floor_divide", "divide", "true_divide", "multiply", "subtract", "negative", "absolute",
    "not_equal", "greater", "greater_equal", "less", "less_equal", "isclose", "arccos", "arcsin", "arctan", "arctan2",
    "rsub", "special_expit", "special_exp2", "special_sinc", "special_round", "special_xlogy", "special_erf",
    "special_gammaln",
})  # fmt: skip
# Tagged as pointwise: the first compares all entries, the second draws random numbers in training.
_NOT = frozenset({"equal", "rrelu"})
_PLACES = (torch.int32, torch.int64)
"""They hold every number of a row or place exactly."""
_NARROW = (torch.bool, torch.int8, torch.uint8, torch.int16)
"""They fold large numbers onto small ones, so that keys in order do not stay in order."""


def is_pointwise(name: str, target: torch._ops.OpOverload) -> bool:
    """Whether torch says so, of the operator or of the one that it is the in-place form of; or it is known."""
    if target.namespace != "aten" or name in _NOT:
        return False
    forms = [target, getattr(getattr(torch.ops.aten, name, None), target._overloadname, None)]
    return name in _MORE or any(form is not None and torch.Tag.pointwise in form.tags for form in forms)


def pointwise(op: Op) -> Claims:
    """All operands of one layout, once their dims are aligned at the right."""
    value = op.result[0] if isinstance(op.result, list | tuple) else op.result
    return op.each(combine(op, _tensors(op), value.dim()))


@rule("to type_as", accepts=(Iota, Packed, Ends, Uniform), donors=("other",))
def cast(op: Op) -> Claim:
    """The layout stays, whatever the value is whose dtype it gets."""
    held = op.operand("self")
    return combine(op, [held], held.rank)


@rule("where", accepts=(Packed, Uniform))
def where(op: Op) -> Claims:
    """The condition and both values of one layout, once their dims are aligned at the right."""
    if "other" not in op.arguments:
        mixes("lists where a condition holds: how many places there are depends on all rows")
    return pointwise(op)


def _tensors(op: Op) -> list[Operand]:
    found = []
    for item in op.arguments.values():
        for one in item if isinstance(item, list | tuple) else [item]:
            operand = op.operand_of(one)
            if operand.is_tensor:
                found.append(operand)
    return found


def combine(op: Op, operands: list[Operand], rank: int) -> Claim:
    """The claim of operands that are broadcast to `rank` dims."""
    varying = [operand for operand in operands if not operand.is_const]
    kinds = {type(operand.claim) for operand in varying}
    if Ends in kinds:
        if op.name in KEEPS and op.result.dtype in (*_PLACES, torch.float32, torch.float64):
            return varying[0].claim
        mixes("computes with the ends of groups of all rows")
    if Iota in kinds:
        if op.name in KEEPS and op.result.dtype in _PLACES:
            return varying[0].claim
        mixes("computes with the number of the row")
    if Packed in kinds:
        return _packed(op, operands, varying, rank)
    layout: Claim | None = None
    for operand in varying:
        if isinstance(operand.claim, Uniform):
            continue
        assert isinstance(operand.claim, Rows)
        here = operand.claim.at(operand.claim.dim + rank - operand.rank)
        both = here if layout is None else agree(layout, here)
        if both is None:
            assert isinstance(layout, Rows)
            mixes(_apart(layout, here))
        layout = both
    if layout is None:
        return _of_constants(op, operands, varying, rank)
    assert isinstance(layout, Rows)
    refuse_constant_along(operands, layout.dim, rank)
    return layout


def _of_constants(op: Op, operands: list[Operand], varying: list[Operand], rank: int) -> Claim:
    """Values that are one constant each stay so; with others, that have several entries, only along the rows."""
    if all(one_entry(operand.sizes) for operand in operands if operand.is_const):
        return Uniform()
    sizes = {}
    for operand in varying:
        for dim in op.rows_dims(operand.value):
            sizes[dim + rank - operand.rank] = operand.sizes[dim]
    if len(sizes) != 1:
        mixes(f"a constant of several entries meets a value with the number of rows in dims {sorted(sizes)}")
    [(dim, size)] = sizes.items()
    refuse_constant_along(operands, dim, rank)
    return equal_along(op, dim, size)


def _apart(first: Rows, second: Rows) -> str:
    if first.dim != second.dim:
        return f"rows along dim {first.dim} meet rows along dim {second.dim}"
    return f"rows folded {first.outer} x rows x {first.inner} meet rows folded {second.outer} x rows x {second.inner}"


def refuse_constant_along(operands: list[Operand], dim: int, rank: int) -> None:
    """A constant must be broadcast along the rows: entries of its own would give each row another one."""
    for operand in operands:
        if operand.is_const:
            own = dim - (rank - operand.rank)
            if own >= 0 and not equal(operand.sizes[own], 1):
                mixes(f"a constant has {operand.sizes[own]} entries along the rows")


def _packed(op: Op, operands: list[Operand], varying: list[Operand], rank: int) -> Claim:
    lists: list[Packed] = []
    for operand in varying:
        if isinstance(operand.claim, Uniform):
            continue
        if not isinstance(operand.claim, Packed):
            mixes("a list in an order that all rows decide meets rows in their own order")
        lists.append(operand.claim.at(operand.claim.dim + rank - operand.rank))
    first = lists[0]
    if any((other.dim, other.order) != (first.dim, first.order) for other in lists):
        mixes("entries of two lists of rows meet")
    refuse_constant_along(operands, first.dim, rank)
    if op.name in KEEPS and _stays(first, op.result.dtype):
        return first
    if all(one.role in ("value", "sorted") for one in lists):
        return dataclasses.replace(first, role="value")
    by = _divisor(op)
    part = whole(size_of(first.rows.inner) / by) if by and first.role == "index" else None
    if part is None:
        mixes("computes with places in a list of all rows")
    return dataclasses.replace(first, rows=dataclasses.replace(first.rows, inner=part), role="index_part")


def _stays(held: Packed, dtype: torch.dtype) -> bool:
    """Whether what the entries are survives a copy of this dtype."""
    return dtype not in _NARROW if held.role in ("value", "sorted") else dtype in _PLACES


def _divisor(op: Op) -> Any:
    """What places are divided by, without a rest: entry // k is the place of the row that has k entries."""
    floors = op.name == "floor_divide" or op.get("rounding_mode") == "floor"
    by = op.get("other")
    return by if floors and isinstance(by, int) and by > 0 else None
