"""Operators that give entries another shape: which dim has the rows then, and how they are folded in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from torchpool.contract.rows.constants import filled
from torchpool.contract.rows.domain import (
    Claim,
    Claims,
    Const,
    Iota,
    Packed,
    Rows,
    Same,
    Uniform,
    mixes,
    unknown,
)
from torchpool.contract.rows.lists import as_values
from torchpool.contract.rows.op import Op
from torchpool.contract.rows.registry import rule
from torchpool.contract.rows.sizes import equal, product, size_of, sizes_of, whole

_CONTIGUOUS = torch.ops.aten.contiguous


def _refuse_in_place(op: Op) -> None:
    """What is changed in place keeps the shape that it had when it was made in `meta`: later rules would read it."""
    if op.node.target._schema.is_mutable:  # type: ignore[union-attr]  # an OpOverload
        unknown(f"{op.name}_ changes a shape in place")


# Other sizes for the same entries.


@rule(
    "view reshape _unsafe_view flatten ravel unflatten view_as reshape_as view_copy _reshape_alias",
    accepts=[Iota, Packed, Uniform],
    sizes=True,
    donors=["other"],
)
def reshape(op: Op) -> Claim:
    """Other dims over the same entries, if what stands before and behind the number of the row stays there."""
    of = op.operand("self")
    if "dtype" in op.arguments:
        unknown("reinterprets bytes as another dtype")
    return refold(op, of.claim, of.sizes, sizes_of(op.result))


def refold(op: Op, held: Claim, before: list[Any], after: list[Any]) -> Claim:
    """The claim once entries of shape `before` have the shape `after`, in the same order."""
    if any(size == 0 for size in (*before, *after)):
        unknown("reshapes a value without entries")
    if isinstance(held, Uniform):
        return filled(op, op.result)
    if isinstance(held, Packed):
        return _refolded_list(held, before, after)
    dims = [dim for dim, size in enumerate(after) if op.holds_rows(size)]
    if isinstance(held, Const):
        mixes("a constant is cut into as many parts as there are rows")
    if len(dims) != 1:
        mixes(f"a reshape puts the number of rows into {len(dims)} dims")
    assert isinstance(held, Rows)
    ahead, behind = product(before[: held.dim]), product(before[held.dim + 1 :])
    new_ahead, new_behind = product(after[: dims[0]]), product(after[dims[0] + 1 :])
    if type(held) is Same:
        return _refolded_same(held, dims[0], ahead / new_ahead, behind / new_behind)
    outer, inner = whole(ahead * held.outer / new_ahead), whole(held.inner * behind / new_behind)
    if outer is None or inner is None:
        mixes("a reshape cuts through rows")
    if isinstance(held, Iota) and (outer, inner) != (held.outer, held.inner):
        mixes("folds the numbers of rows, which are no numbers of entries then")
    return dataclasses.replace(held, dim=dims[0], outer=outer, inner=inner)


def _refolded_list(held: Packed, before: list[Any], after: list[Any]) -> Packed:
    ahead = product(before[: held.dim])
    for dim, size in enumerate(after):
        if equal(size, before[held.dim]) and equal(product(after[:dim]), ahead):
            return held.at(dim)
    mixes("a reshape cuts through a list in an order that all rows decide")


def _refolded_same(held: Same, dim: int, ahead: Any, behind: Any) -> Rows:
    """`ahead`, `behind`: entries before and behind the dim, as a share of those before and behind the new one."""
    times = held.outer * held.inner
    if whole(1 / ahead) is not None and whole(1 / behind) is not None:  # a part of the old dim, and nothing else
        size = whole(times * ahead * behind)
        return mixes("a reshape cuts through rows") if size is None else Same(dim, size, 1)
    for first, last in ((times, 1), (1, times)):  # with entries of other dims, which differ: folded as fits
        outer, inner = whole(first * ahead), whole(last * behind)
        if outer is not None and inner is not None:
            return Rows(dim, outer, inner)
    mixes("a reshape cuts through rows")


# The same dims in another order, some more or some less.


@rule("permute permute_copy", accepts=[Iota, Packed, Uniform])
def permute(op: Op) -> Claim:
    """The dims in another order."""
    return _ordered(op, op.dims("dims", op.operand("self")))


@rule("t numpy_T mT mH adjoint matrix_H transpose swapaxes swapdims movedim moveaxis", accepts=[Iota, Packed, Uniform])
def transpose(op: Op) -> Claim:
    """The dims in another order."""
    return _ordered(op, op.order(op.operand("self")))


def _ordered(op: Op, order: list[int]) -> Claim:
    _refuse_in_place(op)
    held = op.operand("self").claim
    return held.at(order.index(held.dim)) if isinstance(held, Rows | Packed) else held


@rule("unsqueeze", accepts=[Iota, Packed, Uniform])
def unsqueeze(op: Op) -> Claim:
    """One more dim."""
    _refuse_in_place(op)
    held = op.operand("self").claim
    if not isinstance(held, Rows | Packed):
        return held
    return held.at(held.dim + (op.get("dim") % op.result.dim() <= held.dim))


@rule("squeeze", accepts=[Iota, Packed, Uniform])
def squeeze(op: Op) -> Claim:
    """Named dims that have one entry for any sizes go; the rows' dim, which has one entry for one row, is not named."""
    _refuse_in_place(op)
    of = op.operand("self")
    dims = op.dims("dim", of)
    if any(op.holds_rows(of.sizes[dim]) for dim in dims):
        mixes("squeezes the dim of the rows" + ("" if op.has("dim") else ", as all that have one entry"))
    if any(of.sizes[dim].free_symbols for dim in dims):
        unknown("squeezes a dim that goes only where its length is 1")
    held = of.claim
    if not isinstance(held, Rows | Packed):
        return held
    return held.at(held.dim - sum(dim < held.dim and of.sizes[dim] == 1 for dim in dims))


@rule("atleast_1d atleast_2d atleast_3d")
def at_least(op: Op) -> Claims:
    """A vector becomes one line, a matrix one layer."""
    if "tensors" in op.arguments:
        return [_at_least(op.name, of.claim, of.rank) for of in op.operands("tensors")]
    of = op.operand("self")
    return _at_least(op.name, of.claim, of.rank)


def _at_least(name: str, held: Claim, rank: int) -> Claim:
    return held.at(1) if isinstance(held, Rows) and rank == 1 and name != "atleast_1d" else held


# Parts that are views.


@rule("diagonal", accepts=[Packed, Uniform])
def diagonal(op: Op) -> Claim:
    """Of two dims that are not the rows'; its dim comes last."""
    of = op.operand("self")
    held = of.claim
    if isinstance(held, Uniform):
        return filled(op, op.result)
    assert isinstance(held, Rows | Packed)
    dims = [of.dim(op.get("dim1")), of.dim(op.get("dim2"))]
    if held.dim in dims:
        mixes("a diagonal over the rows")
    return held.at(held.dim - sum(dim < held.dim for dim in dims))


@rule("unfold", accepts=[Iota, Packed])
def unfold(op: Op) -> Claim:
    """Windows along a dim that is not the rows'; their dim comes last."""
    of = op.operand("self")
    assert isinstance(of.claim, Rows | Packed)
    if of.claim.dim == of.dim(op.get("dimension")):
        mixes("windows over the rows")
    return of.claim


@rule("as_strided", sizes=True)
def as_strided(op: Op) -> Claim:
    """Of a contiguous value, parts that stay within their row."""
    _refuse_in_place(op)
    of = op.operand("self")
    if getattr(getattr(of.node, "target", None), "_overloadpacket", None) is not _CONTIGUOUS:
        unknown("as_strided of memory that is not made contiguous just before")
    if of.claim != Rows(0):
        unknown("as_strided of rows that are not the first dim, or folded")
    if op.has("storage_offset"):
        unknown("as_strided from an offset")
    sizes, strides = ([op.size(item) for item in op.get(name)] for name in ("size", "stride"))
    per_row = product(of.sizes[1:])
    if not strides or not equal(strides[0], per_row):
        unknown("as_strided that moves rows")
    reach = sum((size - 1) * stride for size, stride in zip(sizes[1:], strides[1:], strict=True))
    left = size_of(per_row - 1 - reach)
    if not left.is_nonnegative:
        unknown("as_strided may reach beyond a row")
    return Rows(0)


@rule("tril triu", accepts=[Packed])
def triangle(op: Op) -> Claim:
    """Of the last two dims, which are not the rows'."""
    of = op.operand("self")
    assert isinstance(of.claim, Rows | Packed)
    if of.claim.dim >= of.rank - 2:
        mixes("a triangle over the rows")
    return as_values(of.claim)


@rule("view_as_real view_as_complex", accepts=[Packed])
def complex_view(op: Op) -> Claim:
    """The last dim, of two entries, is a complex number: no row's, since it has two entries."""
    return op.operand("self").claim
