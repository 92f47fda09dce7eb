"""Operators that take parts of a value, put values together, or repeat entries."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torchpool.contract.pads.domain import Claim, Claims, Fill, Kept, Length, Number, Odd, Pad, either, loses
from torchpool.contract.pads.numbers import least_of
from torchpool.contract.pads.op import Op, Operand
from torchpool.contract.pads.pointwise import merged
from torchpool.contract.pads.registry import rule
from torchpool.contract.rows.sizes import equal, size_of


def _without(held: Kept, dim: int) -> Kept:
    """Once a dim, which is no pad, is gone."""
    return held.shifted(lambda d: d - (dim < d))


@rule("select select_copy")
def select(op: Op) -> Claim:
    """One place; along the length only the first, which is kept in each call."""
    of = op.operand("self")
    dim, index = of.dim(op.get("dim")), op.get("index")
    pad = of.kept.pad(dim)
    if pad is None:
        return _without(of.kept, dim)
    if not isinstance(index, int):
        loses("takes a place that is computed from the length, padding included")
    if index < 0:
        loses("takes the last place, which is a padded one")
    if not pad.plain or index > pad.extra:
        loses(f"takes place {index}, which shorter calls do not have")
    gone = of.kept.moved({d: d - (dim < d) for d in range(of.rank) if d != dim})
    if dim in of.kept.holes:
        gone = dataclasses.replace(gone, odd="any", holes=frozenset(p.dim for p in gone.pads))
    return dataclasses.replace(gone, value=None, ramp=None)


@rule("slice slice_copy narrow narrow_copy", sizes=True)
def cut(op: Op) -> Claim:
    """A part; along the length all from a place on that each call has, up to one counted from the end."""
    of = op.operand("self")
    dim = of.dim(op.get("dim") or 0)
    pad, start, step = of.kept.pad(dim), op.get("start") or 0, op.get("step", 1)
    size = op.sizes.of(op.result.shape[dim])
    if pad is None and not op.sizes.hold(size):
        if any(isinstance(op.claims.get(op.get(name)), Length) for name in ("start", "end", "length")):
            loses("cuts at a place that is computed from the length, padding included")
        return of.kept
    if pad is not None and equal(size, of.sizes[dim]):
        return of.kept
    if not isinstance(start, int) or start < 0:
        loses("cuts from a place that is counted from the end, where padded places are")
    if step != 1:
        loses("takes every so many places of the length")
    if pad is None:  # the first entries of a table
        extra = op.sizes.extra(size)
        if extra is None:
            loses(f"cuts {size} entries from a table")
        return _more_pads(of.kept, Pad(dim, extra=extra))
    if not pad.plain:
        loses("cuts places that are folded with others")
    if not op.sizes.hold(size):
        return _first(op, of, pad, start, size)
    extra = op.sizes.extra(size)
    if extra is None or start > pad.extra + 1:
        loses(f"cuts {size} places from the length")
    whole = extra == pad.extra - start
    new = Pad(dim, extra=extra, fill=pad.fill if whole else None)
    pads = tuple(new if one is pad else one for one in of.kept.pads)
    ramp = of.kept.ramp
    if ramp is not None and start:
        ramp = dataclasses.replace(ramp, start=ramp.start + start * dict(ramp.factors).get(dim, 0))
    return dataclasses.replace(of.kept, pads=pads, ramp=ramp)


def _first(op: Op, of: Operand, pad: Pad, start: int, size: Any) -> Claim:
    """A number of places that does not vary: of calls that have so many."""
    if start + int(size_of(size)) > 1 + pad.extra:
        loses(f"takes the first {start + size} places, which shorter calls do not have")
    held = of.kept
    pads = tuple(one for one in held.pads if one is not pad)
    found = dataclasses.replace(held, pads=pads, value=None, ramp=None, holes=held.holes - {pad.dim})
    if pad.dim in held.holes:
        found = dataclasses.replace(found, odd="any", holes=frozenset(p.dim for p in pads))
    return found


def _more_pads(held: Kept, pad: Pad) -> Kept:
    pads = sorted((*held.pads, pad.holding(None if held.value is None else Fill(held.value))), key=lambda p: p.dim)
    holes = held.holes if held.odd == "finite" else held.holes | {pad.dim}
    return dataclasses.replace(held, pads=tuple(pads), holes=holes)


@rule("split split_with_sizes chunk tensor_split unsafe_split unsafe_split_with_sizes unsafe_chunk")
def split(op: Op) -> Claims:
    """Parts of a dim that does not run along the length."""
    of = op.operand("self")
    if of.kept.pad(of.dim(op.get("dim"))) is not None:
        loses(f"{op.name} along the length: parts depend on how long it is, padding included")
    return op.each(of.kept)


@rule("unbind")
def unbind(op: Op) -> Claims:
    """The places of a dim that does not run along the length."""
    of = op.operand("self")
    dim = of.dim(op.get("dim"))
    if of.kept.pad(dim) is not None:
        loses("unbind along the length")
    return op.each(_without(of.kept, dim))


@rule("diagonal")
def diagonal(op: Op) -> Claim:
    """Of two dims that do not run along the length."""
    of = op.operand("self")
    dims = [of.dim(op.get("dim1")), of.dim(op.get("dim2"))]
    if any(of.kept.pad(dim) is not None for dim in dims):
        loses("a diagonal along the length")
    return of.kept.shifted(lambda dim: dim - sum(d < dim for d in dims))


@rule("repeat tile")
def repeat(op: Op) -> Claim:
    """Along dims that do not run along the length."""
    of = op.operand("self")
    rank = op.result.dim()
    counts = [op.size(count) for count in op.get(op.first("repeats", "dims"))]
    counts = [1] * (rank - len(counts)) + counts
    held = of.kept.shifted(lambda dim: dim + rank - of.rank)
    if any(counts[pad.dim] != 1 for pad in held.pads):
        loses("repeats the places of the length, padding included, behind each other")
    return held


@rule("repeat_interleave")
def repeat_interleave(op: Op) -> Claim:
    """Along a dim that does not run along the length."""
    of = op.operand("self")
    dim = op.get("dim")
    if op.operand("repeats").is_tensor or dim is None or of.kept.pad(of.dim(dim)) is not None:
        loses("repeats places of the length")
    return of.kept


# --- joins ------------------------------------------------------------------------------------------------------------


@rule("cat concat concatenate stack")
def join(op: Op) -> Claim:
    """Along another dim, or values of fixed size before the places of the length."""
    given = [of for of in op.operands("tensors") if not (of.rank == 1 and equal(of.sizes[0], 0))]  # these are left out
    rank = op.result.dim()
    dim = op.get("dim") % rank
    if op.name == "stack":
        given = [Operand(of.kept.shifted(lambda d: d + (dim <= d)), _line(of, dim), of.node, of.known) for of in given]
    odd: Odd = "finite"
    holes: frozenset[int] = frozenset()
    for of in given:
        odd, holes = either(odd, of.kept.odd), holes | of.kept.holes
    bounds = [least_of(of) for of in given]
    least: Number | None = None if None in bounds else min(bound for bound in bounds if bound is not None)
    along = [of for of in given if of.kept.pad(dim) is not None]
    if not along:
        pads = merged(given, rank, op.name)
        return Kept(tuple(_with_fill(pad, given) for pad in pads), least=least, odd=odd, holes=holes)
    if along != given[-1:]:
        loses("joins something behind the places of the length, where padded places are")
    others = [of.sizes[dim] for of in given[:-1]]
    if not all(size.is_Integer for size in others) or len({_others(of, dim) for of in given}) > 1:
        loses("joins values whose other dims run along the length differently")
    [pad] = [pad for pad in given[-1].kept.pads if pad.dim == dim]
    if not pad.plain:
        loses("joins something to places that are folded with others")
    found = dataclasses.replace(pad, extra=pad.extra + int(sum(others)))
    pads = tuple(found if one is pad else one.holding(None) for one in given[-1].kept.pads)
    if odd != "finite":
        holes = holes | {one.dim for one in pads}
    return Kept(pads, least=least, odd=odd, holes=holes)


def _line(of: Operand, dim: int) -> Any:
    return of.value.unsqueeze(dim)


def _others(of: Operand, dim: int) -> tuple[Any, ...]:
    return tuple((pad.dim, *pad.layout) for pad in of.kept.pads if pad.dim != dim)


def _with_fill(pad: Pad, given: list[Operand]) -> Pad:
    fills = {found.fill if (found := of.kept.pad(pad.dim)) is not None else None for of in given}
    return pad.holding(fills.pop() if len(fills) == 1 else None)


@rule("pad constant_pad_nd")
def pad(op: Op) -> Claim:
    """Around other dims; along the length before the first place, or behind it with what padded places hold."""
    of = op.operand("self")
    widths = [op.size(width) for width in op.get("pad")]
    value = op.get("value") or 0
    if op.get("mode", "constant") != "constant":
        loses("pads with entries of the value itself")
    pads: list[Pad] = []
    for one in of.kept.pads:
        place = 2 * (of.rank - 1 - one.dim)  # pairs from the last dim on
        left, right, *_ = [*widths[place : place + 2], 0, 0]
        if (left, right) == (0, 0):
            pads.append(one.holding(None) if any(widths) else one)
            continue
        numbers = isinstance(value, int | float) and size_of(left).is_Integer and size_of(right).is_Integer
        if not numbers or not one.plain:
            loses("pads the places of the length by a number that is computed")
        if left < 0:
            loses("cuts the first places by padding with a negative width")
        if right > 0 and (one.fill is None or one.fill.about or one.fill.unless_nan or one.fill.value != value):
            loses("pads behind the places of the length, where padded places are")
        extra = one.extra + int(left) + int(right)
        fill = one.fill if right >= 0 and len(of.kept.pads) == 1 else None
        pads.append(dataclasses.replace(one, extra=extra, fill=fill))
    finite = of.kept.odd == "finite" and isinstance(value, int | float) and math.isfinite(value)
    odd: Odd = "finite" if finite else "any"
    holes = frozenset(one.dim for one in pads) if odd == "any" else frozenset[int]()
    return Kept(tuple(pads), odd=odd, holes=holes)
