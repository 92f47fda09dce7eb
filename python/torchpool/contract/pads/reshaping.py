"""Operators that give entries another shape: which dims run along the length then, and how places lie in them."""

from __future__ import annotations

import dataclasses
from typing import Any

from torchpool.contract.pads.domain import Claim, Fill, Kept, Pad, loses
from torchpool.contract.pads.op import Op
from torchpool.contract.pads.registry import rule
from torchpool.contract.rows.sizes import equal, product, whole


@rule(
    "view reshape _unsafe_view flatten ravel unflatten view_as reshape_as view_copy _reshape_alias",
    sizes=True,
    donors=["other"],
)
def reshape(op: Op) -> Claim:
    """Other dims over the same entries, if places are not merged with those of another dim."""
    of = op.operand("self")
    if "dtype" in op.arguments:
        loses("reinterprets bytes as another dtype")
    if not of.kept.pads:
        loses("a reshape cuts a value of fixed size into as many parts as the length says")
    return refold(of.kept, of.sizes, [op.sizes.of(size) for size in op.result.shape])


def refold(held: Kept, before: list[Any], after: list[Any]) -> Kept:
    """The claim once entries of shape `before` have the shape `after`, in the same order."""
    places: dict[int, int] = {}
    changed: dict[int, Pad] = {}
    for old, new in _blocks(before, after):
        inside = [pad for pad in held.pads if pad.dim in old]
        if len(inside) > 1:
            loses("a reshape merges two dims that both run along the length")
        if not inside:
            continue
        [pad] = inside
        dim, found = _in_block(pad, old, new, before, after)
        places[pad.dim] = dim
        changed[dim] = found
    found_kept = held.moved(places)
    pads = tuple(dataclasses.replace(changed[pad.dim], fill=pad.fill) for pad in found_kept.pads)
    ramp = found_kept.ramp if all(pad.plain for pad in (*pads, *held.pads)) else None
    return dataclasses.replace(found_kept, pads=pads, ramp=ramp)


def _blocks(before: list[Any], after: list[Any]) -> list[tuple[list[int], list[int]]]:
    """Dims that become other dims, in groups of as many entries; dims of one entry are left out."""
    old = [dim for dim, size in enumerate(before) if not equal(size, 1)]
    new = [dim for dim, size in enumerate(after) if not equal(size, 1)]
    found = []
    while old or new:
        if not old or not new:
            loses("a reshape whose sizes are not understood")
        left, right = [old.pop(0)], [new.pop(0)]
        while not equal(product(before[d] for d in left), product(after[d] for d in right)):
            more = whole(product(after[d] for d in right) / product(before[d] for d in left))
            if more is not None and old:
                left.append(old.pop(0))
            elif new:
                right.append(new.pop(0))
            elif old:
                left.append(old.pop(0))
            else:
                loses("a reshape whose sizes are not understood")
        found.append((left, right))
    return found


def _in_block(pad: Pad, old: list[int], new: list[int], before: list[Any], after: list[Any]) -> tuple[int, Pad]:
    """Where the places of a pad lie, once a group of dims is another."""
    unit = before[pad.dim] / (pad.outer * pad.inner)
    ahead = product(before[d] for d in old if d < pad.dim) * pad.outer
    behind = product(before[d] for d in old if d > pad.dim) * pad.inner
    for dim in new:
        outer = whole(ahead / product(after[d] for d in new if d < dim))
        inner = whole(behind / product(after[d] for d in new if d > dim))
        if outer is not None and inner is not None and equal(after[dim], outer * unit * inner):
            return dim, Pad(dim, outer, inner, pad.extra)
    return loses("a reshape cuts through the places of the length")


# The same dims in another order, some more or some less.


@rule("permute permute_copy")
def permute(op: Op) -> Claim:
    """The dims in another order."""
    return _ordered(op, op.dims("dims", op.operand("self")))


@rule("t numpy_T mT mH adjoint matrix_H transpose swapaxes swapdims movedim moveaxis")
def transpose(op: Op) -> Claim:
    """The dims in another order."""
    return _ordered(op, op.order(op.operand("self")))


def _ordered(op: Op, order: list[int]) -> Claim:
    return op.operand("self").kept.shifted(order.index)


@rule("unsqueeze")
def unsqueeze(op: Op) -> Claim:
    """One more dim."""
    new = op.get("dim") % op.result.dim()
    return op.operand("self").kept.shifted(lambda dim: dim + (new <= dim))


@rule("squeeze")
def squeeze(op: Op) -> Claim:
    """Dims that have one entry for any length go; one that runs along the length is not named."""
    of = op.operand("self")
    dims = op.dims("dim", of)
    if any(of.kept.pad(dim) is not None for dim in dims):
        loses("squeezes a dim that goes only where the length is 1")
    gone = [dim for dim in dims if equal(of.sizes[dim], 1)]
    return of.kept.shifted(lambda dim: dim - sum(d < dim for d in gone))


@rule("expand expand_as expand_copy broadcast_to", sizes=True, donors=["other"])
def expand(op: Op) -> Claim:
    """More dims, or more equal entries along dims that have one."""
    of = op.operand("self")
    more = op.result.dim() - of.rank
    held = of.kept.shifted(lambda dim: dim + more)
    pads = list(held.pads)
    for dim in op.sizes.dims(op.result):
        if held.pad(dim) is None:
            extra = op.sizes.extra(op.result.shape[dim])
            if extra is None:
                loses(f"a value is repeated {op.size(op.result.shape[dim])} times")
            pads.append(Pad(dim, extra=extra, fill=_constant(of.kept)))
    return dataclasses.replace(held, pads=tuple(sorted(pads, key=lambda pad: pad.dim)))


def _constant(held: Kept) -> Fill | None:
    return None if held.value is None else Fill(held.value)
