"""Operators that put values together, or something around them."""

from __future__ import annotations

from typing import Any

from torchpool.contract.rows.constants import equal_along
from torchpool.contract.rows.domain import Claim, Const, Packed, Rows, Same, Uniform, agree, mixes
from torchpool.contract.rows.lists import as_values
from torchpool.contract.rows.op import Op, Operand
from torchpool.contract.rows.registry import rule
from torchpool.contract.rows.sizes import equal, size_of, whole


@rule("cat concat concatenate stack hstack vstack", accepts=[Packed, Uniform])
def join(op: Op) -> Claim:
    """Values of one layout, along any dim; along the rows' block behind block."""
    empty = [of.rank == 1 and equal(of.sizes[0], 0) for of in op.operands("tensors")]  # and left out
    given = [of for of, left_out in zip(op.operands("tensors"), empty, strict=True) if not left_out]
    dim = _joined_dim(op)
    claims = [_in_result(op, of, dim) for of in given]
    one = next((claim for claim in claims if isinstance(claim, Packed)), None)
    if one is not None:
        if one.dim == dim or any(claim != one for claim in claims):
            mixes("joins a list in an order that all rows decide to something else")
        return one
    dims = op.rows_dims(op.result)
    if len(dims) != 1:
        mixes(f"joins constants, with the number of rows in {len(dims)} dims")
    laid = [
        claim if isinstance(claim, Rows) else _as_rows(op, of, dims[0]) for claim, of in zip(claims, given, strict=True)
    ]
    return _behind_each_other(laid) if dims[0] == dim else _aligned(laid)


def _joined_dim(op: Op) -> int:
    rank = int(op.result.dim())
    if op.name == "vstack":
        return 0
    return (1 if rank > 1 else 0) if op.name == "hstack" else int(op.get("dim")) % rank


def _in_result(op: Op, of: Operand, dim: int) -> Claim:
    """The claim of what is joined, once it has as many dims as the result."""
    held = as_values(of.claim)
    if isinstance(held, Const):
        mixes("a constant is joined to rows")
    if isinstance(held, Rows | Packed) and of.rank < op.result.dim() and dim <= held.dim:
        return held.at(held.dim + 1)
    return held


def _as_rows(op: Op, of: Operand, dim: int) -> Rows:
    """One constant everywhere, as rows along `dim` of what it is joined into."""
    [own] = op.rows_dims(of.value)
    return equal_along(op, dim, of.sizes[own])


def _aligned(laid: list[Rows]) -> Rows:
    found: Any = laid[0]
    for other in laid:
        found = agree(found, other)
        if found is None:
            mixes("joins rows of different layouts")
    return found  # type: ignore[no-any-return]  # Rows


def _behind_each_other(laid: list[Rows]) -> Rows:
    """Blocks of all rows, which must be alike."""
    inner = next((rows.inner for rows in laid if type(rows) is not Same), 1)
    blocks = [
        whole(size_of(rows.outer * rows.inner) / inner) for rows in laid if type(rows) is Same or rows.inner == inner
    ]
    if len(blocks) < len(laid) or None in blocks:
        mixes("joins rows of different layouts, one behind the other")
    return Rows(laid[0].dim, sum(blocks), inner)


@rule(
    """pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d _pad_circular _pad_enum""",
    accepts=[Packed],
)
def pad(op: Op) -> Claim:
    """Along dims that are not the rows'."""
    of = op.operand("self")
    held = as_values(of.claim)
    assert isinstance(held, Rows | Packed)
    pads = op.get(op.first("pad", "padding"))
    place = 2 * (of.rank - 1 - held.dim)  # pairs from the last dim on
    if any(op.size(width) != 0 for width in pads[place : place + 2]):
        mixes("pads along the rows")
    return held
