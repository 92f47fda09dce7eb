"""Operators that compute each entry from the entries at its place, and those that only copy."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from torchpool.contract.rows.domain import (
    CONST,
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
from torchpool.contract.rows.sizes import equal, whole

# Entries stay as they are: the number of a row, or a place in a list, is still one.
KEEPS = frozenset({
    "clone", "contiguous", "to", "_to_copy", "detach", "alias", "lift_fresh_copy", "lift_fresh", "positive",
})  # fmt: skip
# Pointwise, and not tagged so by torch.
_MORE = KEEPS | frozenset({
    "type_as", "__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "zero", "copy", "fill",
    "resolve_conj", "resolve_neg", "conj", "fake_quantize_per_tensor_affine", "sigmoid_backward",
    "float_power", "isclose", "heaviside", "log_sigmoid",
})  # fmt: skip


def is_pointwise(name: str, target: torch._ops.OpOverload) -> bool:
    """Whether torch says so, or it is known."""
    return name in _MORE or (torch.Tag.pointwise in target.tags and target.namespace == "aten")


def pointwise(op: Op) -> Claims:
    """All operands of one layout, once their dims are aligned at the right."""
    value = op.result[0] if isinstance(op.result, list | tuple) else op.result
    return op.each(combine(op, _tensors(op), value.dim()))


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
        return varying[0].claim if op.name in KEEPS else mixes("computes with the ends of groups of all rows")
    if Iota in kinds:
        if op.name in KEEPS:
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
        return Uniform() if varying else CONST
    assert isinstance(layout, Rows)
    refuse_constant_along(operands, layout.dim, rank)
    return layout


def _apart(first: Rows, second: Rows) -> str:
    if first.dim != second.dim:
        return f"rows along dim {first.dim} meet rows along dim {second.dim}"
    return f"rows folded {first.outer} x rows x {first.inner} meet rows folded {second.outer} x rows x {second.inner}"


def refuse_constant_along(operands: list[Operand], dim: int, rank: int) -> None:
    """A constant must be broadcast along the rows: entries of its own would give each row another one."""
    for operand in operands:
        if operand.is_const and operand.is_tensor:
            own = dim - (rank - operand.rank)
            if own >= 0 and not equal(operand.sizes[own], 1):
                mixes(f"a constant has {operand.sizes[own]} entries along the rows")


def _packed(op: Op, operands: list[Operand], varying: list[Operand], rank: int) -> Claim:
    lists: list[Packed] = []
    for operand in varying:
        if not isinstance(operand.claim, Packed):
            mixes("a list in an order that all rows decide meets rows in their own order")
        lists.append(operand.claim.at(operand.claim.dim + rank - operand.rank))
    first = lists[0]
    if any((other.dim, other.order) != (first.dim, first.order) for other in lists):
        mixes("entries of two lists of rows meet")
    refuse_constant_along(operands, first.dim, rank)
    if all(one.role == "value" for one in lists):
        return first
    if len(lists) == 1 and op.name in KEEPS:
        return first
    if all(one.role in ("value", "sorted") for one in lists):
        return dataclasses.replace(first, role="value")
    by = _divisor(op)
    part = whole(first.rows.inner / by) if by and len(lists) == 1 and first.role == "index" else None
    if part is None:
        mixes("computes with places in a list of all rows")
    return dataclasses.replace(first, rows=dataclasses.replace(first.rows, inner=part), role="index_part")


def _divisor(op: Op) -> Any:
    """What places are divided by, without a rest: entry // k is the place of the row that has k entries."""
    floors = op.name == "floor_divide" or (op.name == "div" and op.get("rounding_mode") == "floor")
    by = op.get("other")
    return by if floors and isinstance(by, int) and by > 0 else None
