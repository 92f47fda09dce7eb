"""Operators that pick entries by indices."""

from __future__ import annotations

import torch

from torchpool.contract.pads.domain import Claim, Claims, Kept, Odd, Pad, loses
from torchpool.contract.pads.op import Op, Operand
from torchpool.contract.pads.products import Letter, at_right
from torchpool.contract.pads.registry import rule


@rule("embedding")
def embedding(op: Op) -> Claim:
    """From a table that does not vary."""
    if op.operand("weight").kept.pads:
        loses("the table of an embedding runs along the length")
    held = op.operand("indices").kept
    odd = op.operand("weight").kept.odd
    return held.bare(odd=odd, holes=frozenset(pad.dim for pad in held.pads) if odd != "finite" else frozenset())


@rule("bucketize isin")
def looked_up(op: Op) -> Claim:
    """In values that do not vary."""
    given, values = op.operand(op.first("self", "elements", "element")), op.operand(
        op.first("boundaries", "test_elements", "test_element"))  # fmt: skip
    if values.kept.pads:
        loses(f"{op.name} looks up in values along the length")
    return Kept(tuple(pad.holding(None) for pad in given.kept.pads))


@rule("gather")
def gather(op: Op) -> Claims:
    """Along another dim, or at places that are kept ones in each call."""
    target, index = op.operand("self"), op.operand("index")
    dim = target.dim(op.get("dim"))
    from_places = target.kept.pad(dim)
    if from_places is not None:
        _require_kept(op, index, from_places)
    pads: dict[int, Pad] = {pad.dim: Pad(pad.dim, *pad.layout) for pad in index.kept.pads}
    for pad in target.kept.pads:
        if pad.dim != dim and pads.get(pad.dim) != Pad(pad.dim, *pad.layout):
            loses("gather from places beside others")
    holes = (target.kept.holes - {dim}) | (set(pads) if target.kept.odd != "finite" else set())
    return Kept(tuple(pads[d] for d in sorted(pads)), odd=_picked_odd(target, {dim}), holes=frozenset(holes))


def _picked_odd(target: Operand, dims: set[int]) -> Odd:
    return "any" if target.kept.holes & dims else target.kept.odd


def _require_kept(op: Op, index: Operand, pad: Pad) -> None:
    """An index must say places that are kept ones in each call."""
    kept = index.kept
    if not pad.plain:
        loses("picks among places that are folded with others")
    if kept.place is not None and kept.place <= pad.extra:
        return
    if kept.pads:
        loses("picks places of the length by numbers that are padded, too, or may count from its end")
    # Beyond its end the call itself fails.
    op.conditions.append((f"{op.name} picks places by number: only where these are not counted from the end", op.node))


@rule("index _unsafe_index")
def indexed(op: Op) -> Claims:
    """At places that are kept ones in each call, or at each place its own."""
    return _pick(op, op.operand("self"), [None if item is None else op.operand_of(item) for item in op.get("indices")])


@rule("index_select")
def index_select(op: Op) -> Claims:
    """As x[:, index]."""
    target = op.operand("self")
    return _pick(op, target, [None] * target.dim(op.get("dim")) + [op.operand("index")])


def _pick(op: Op, target: Operand, given: list[Operand | None]) -> Kept:
    indices = [(dim, index) for dim, index in enumerate(given) if index is not None]
    if any(index.value.dtype in (torch.bool, torch.uint8) for _, index in indices):
        loses("picks by a mask: how many entries there are depends on values")
    rank = max(index.rank for _, index in indices)
    own: list[Letter] = [f"index {place}" for place in range(rank)]
    layouts: dict[Letter, Pad] = {}
    odd = target.kept.odd
    for dim, index in indices:
        letters = at_right(own, index)
        for pad in index.kept.pads:
            _enter(layouts, letters[pad.dim], Pad(0, *pad.layout))
        places = target.kept.pad(dim)
        if places is None:
            continue
        if dim in target.kept.holes:
            odd = "any"
        if (line := _own_places(index, places)) is not None:
            _enter(layouts, letters[line], Pad(0, *places.layout, places.fill))
        else:
            _require_kept(op, index, places)
    dims = [dim for dim, _ in indices]
    rest: list[Letter] = [dim for dim in range(target.rank) if dim not in dims]
    for pad in target.kept.pads:
        if pad.dim in rest:
            layouts[pad.dim] = Pad(0, *pad.layout)
    ahead = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0
    result = [*rest[:ahead], *own, *rest[ahead:]]
    pads = tuple(
        Pad(dim, *layouts[letter].layout, layouts[letter].fill)
        for dim, letter in enumerate(result)
        if letter in layouts
    )
    holes = frozenset(pad.dim for pad in pads) if odd != "finite" else frozenset[int]()
    return Kept(pads, odd=odd, holes=holes)


def _enter(layouts: dict[Letter, Pad], letter: Letter, pad: Pad) -> None:
    before = layouts.get(letter)
    if before is not None and before.layout != pad.layout:
        loses("indices along the length lie in different ways")
    if before is None or before.fill is None:
        layouts[letter] = pad


def _own_places(index: Operand, places: Pad) -> int | None:
    """The dim of an index that says at each place of it the number of this place."""
    ramp = index.kept.ramp
    if ramp is None or ramp.start != 0 or len(ramp.factors) != 1 or not places.plain:
        return None
    [(dim, factor)] = ramp.factors
    pad = index.kept.pad(dim)
    return dim if factor == 1 and pad is not None and pad.plain and pad.extra == places.extra else None
