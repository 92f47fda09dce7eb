"""Operators that compute each entry from the entries at its place, and those that only copy."""

from __future__ import annotations

import functools
import math

import torch

from torchpool.contract.pads.domain import Claim, Claims, Fill, Kept, Odd, Pad, either, loses
from torchpool.contract.pads.fills import PASS_NAN, at_padded, computed
from torchpool.contract.pads.numbers import KEEPS, bound_of, compared, ramp_of, stays_finite
from torchpool.contract.pads.op import Op, Operand, one_entry
from torchpool.contract.pads.registry import rule


def merged(operands: list[Operand], rank: int, what: str) -> tuple[Pad, ...]:
    """The pads of operands that are broadcast to `rank` dims, without what they hold."""
    found: dict[int, Pad] = {}
    for operand in operands:
        for pad in operand.kept.pads:
            dim = pad.dim + rank - operand.rank
            here = Pad(dim, *pad.layout)
            if found.setdefault(dim, here) != here:
                loses(f"{what} puts places of one dim beside others of another")
    for operand in operands:
        for dim in found:
            own = dim - (rank - operand.rank)
            if own >= 0 and operand.kept.pad(own) is None and not one_entry(operand, own):
                loses(f"{what} puts places beside a dim that is not padded")
    return tuple(sorted(found.values(), key=lambda pad: pad.dim))


def aligned_holes(operand: Operand, rank: int) -> frozenset[int]:
    """The holes of an operand that is broadcast to `rank` dims."""
    return frozenset(dim + rank - operand.rank for dim in operand.kept.holes)


def _oddness(op: Op, operands: list[Operand], pads: tuple[Pad, ...], rank: int) -> tuple[Odd, frozenset[int]]:
    """What entries may be that are not finite, and along which pads that varies."""
    everywhere = frozenset(pad.dim for pad in pads)
    if not (op.result.dtype.is_floating_point or op.result.dtype.is_complex):
        return "finite", frozenset()
    if op.name in ("where", "masked_fill"):
        return _chosen(op, operands, rank)
    odds: set[Odd] = {operand.kept.odd for operand in operands} - {"finite"}
    if not stays_finite(op):
        return "any", everywhere
    if not odds or op.name == "nan_to_num":
        return "finite", frozenset()
    holes = frozenset[int]().union(*(aligned_holes(operand, rank) for operand in operands))
    if op.name in KEEPS:
        return odds.pop(), holes
    if "any" not in odds and op.name == "add" and op.get("alpha", 1) == 1:
        return functools.reduce(either, odds), holes
    if odds == {"nan"} and op.name in PASS_NAN:
        return "nan", holes
    return "any", everywhere


def _chosen(op: Op, operands: list[Operand], rank: int) -> tuple[Odd, frozenset[int]]:
    """Of one value or another."""
    names = ("self", "other") if op.name == "where" else ("self", "value")
    odd: Odd = "finite"
    holes: frozenset[int] = frozenset()
    for name in names:
        of = op.operand(name)
        if of.is_tensor and of.kept.value is None:
            odd, holes = either(odd, of.kept.odd), holes | aligned_holes(of, rank)
        else:
            value = of.kept.value if of.is_tensor else of.value
            assert isinstance(value, int | float)
            if not math.isfinite(value):
                odd = either(odd, "low" if value == -math.inf else "any")
    if odd == "finite":
        return odd, frozenset()
    by = op.operand("condition" if op.name == "where" else "mask")
    return odd, holes | {pad.dim + rank - by.rank for pad in by.kept.pads}


def pointwise(op: Op) -> Claims:
    """Places beside places of the same number; padded ones become what can be computed for them."""
    if isinstance(op.result, list | tuple):
        value = op.result[0]
        operands = op.tensors()
        return op.each(Kept(merged(operands, value.dim(), op.name), odd="any", holes=_all(operands, value.dim())))
    return _of(op, op.tensors())


def _all(operands: list[Operand], rank: int) -> frozenset[int]:
    return frozenset(pad.dim + rank - operand.rank for operand in operands for pad in operand.kept.pads)


def _of(op: Op, operands: list[Operand]) -> Kept:
    rank = op.result.dim()
    pads = merged(operands, rank, op.name)
    odd, holes = _oddness(op, operands, pads, rank)
    filled = []
    for pad in pads:
        fill = at_padded(op, operands, pad.dim, rank)
        if fill is None and (answer := compared(op, pads, pad.dim, rank)) is not None:
            fill = Fill(answer)
        if fill is not None and isinstance(fill.value, float) and not math.isfinite(fill.value):
            odd, holes = either(odd, "low" if fill.value == -math.inf else "any"), holes | {pad.dim}
        filled.append(pad.holding(fill))
    constants = {of.node: of.kept.value for of in operands if of.node is not None and of.kept.value is not None}
    value = computed(op, constants) if len(constants) == len({of.node for of in operands}) else None
    copies = op.name in KEEPS and op.result.dtype in (torch.int32, torch.int64)
    place = op.operand("self").kept.place if copies else None
    return Kept(tuple(filled), value, ramp_of(op, rank), bound_of(op), place, odd, holes)


@rule("to type_as", donors=("other",), facts=True)
def cast(op: Op) -> Claim:
    """Entries stay as they are, whatever the value is whose dtype they get."""
    return _of(op, [op.operand("self")])


@rule("where", facts=True)
def where(op: Op) -> Claims:
    """One of two values at each place."""
    if "other" not in op.arguments:
        loses("lists where a condition holds, also at padded places")
    return pointwise(op)


@rule("dropout feature_dropout alpha_dropout feature_alpha_dropout")
def dropout(op: Op) -> Claims:
    """Nothing in eval mode."""
    if op.get("train") and op.get("p") != 0:
        loses(f"{op.name} in train mode draws another number for each place")
    return op.operand("input").claim  # type: ignore[no-any-return]  # a claim


@rule("prelu")
def prelu(op: Op) -> Claims:
    """A slope for all, or one for each channel, which is not padded."""
    given, weight = op.operand("self"), op.operand("weight")
    if weight.kept.pads or (given.kept.pad(1) is not None and weight.value.numel() != 1):
        loses("the padded places are the channels of prelu")
    return given.kept.bare()
