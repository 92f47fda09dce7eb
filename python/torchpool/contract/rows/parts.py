"""Operators that take parts of a value, or repeat its entries."""

from __future__ import annotations

import dataclasses
from typing import Any

from torchpool.contract.rows.constants import equal_along, filled, one_entry
from torchpool.contract.rows.domain import (
    Claim,
    Claims,
    Const,
    Iota,
    Packed,
    Rows,
    Uniform,
    mixes,
    unknown,
)
from torchpool.contract.rows.op import Op, Operand
from torchpool.contract.rows.registry import rule
from torchpool.contract.rows.reshaping import refold
from torchpool.contract.rows.sizes import equal, product, whole

# Repeated.


@rule("repeat tile", accepts=[Iota, Packed, Uniform], sizes=True)
def repeat(op: Op) -> Claim:
    """Along any dims; along the rows' all of them one time after the other. A constant once for each row."""
    of = op.operand("self")
    rank = op.result.dim()
    counts = [op.size(count) for count in op.get(op.first("repeats", "dims"))]
    counts = [1] * (rank - len(counts)) + counts
    held = of.claim
    if isinstance(held, Const):
        return _repeated_constant(op, of, counts)
    if not isinstance(held, Rows | Packed):
        return held
    held = held.at(held.dim + rank - of.rank)
    return held if counts[held.dim] == 1 else _more(op, held, counts[held.dim], "outer")


def _repeated_constant(op: Op, of: Operand, counts: list[Any]) -> Claim:
    dims = [dim for dim, count in enumerate(counts) if op.holds_rows(count)]
    if len(dims) > 1 and one_entry(of.sizes):
        return Uniform()
    if len(dims) > 1:
        mixes(f"a constant of several entries is repeated for the rows in {len(dims)} dims")
    own = dims[0] - len(counts) + of.rank
    width = of.sizes[own] if own >= 0 else 1
    found = equal_along(op, dims[0], counts[dims[0]])
    return found if width == 1 else Rows(found.dim, found.outer, width)


def _more(op: Op, held: Claim, times: Any, fold: str) -> Rows:
    """Each entry along the rows' dim `times` times: all of them one time after the other (`outer`), or each at once."""
    if not isinstance(held, Rows) or isinstance(held, Iota):
        mixes("repeats a list in an order that all rows decide" if isinstance(held, Packed) else "repeats row numbers")
    if op.holds_rows(times):
        mixes("rows are repeated as many times as there are rows")
    return dataclasses.replace(held, **{fold: getattr(held, fold) * times})


@rule("repeat_interleave", accepts=[Iota, Packed, Uniform], sizes=True)
def repeat_interleave(op: Op) -> Claim:
    """Along any dim; along the rows' each entry some times at once. A constant's each entry once for each row."""
    of = op.operand("self")
    if op.operand("repeats").is_tensor:
        unknown("repeat_interleave with numbers from a tensor")
    times, held, sizes, dim = op.size(op.get("repeats")), of.claim, of.sizes, op.get("dim")
    if isinstance(held, Uniform):
        return held
    if dim is None:
        flat = [product(sizes)]
        held, sizes, dim = held if isinstance(held, Const) else refold(op, held, sizes, flat), flat, 0
    dim = dim % len(sizes)
    if isinstance(held, Const):
        found = equal_along(op, dim, times)
        return found if sizes[dim] == 1 else Rows(dim, sizes[dim], found.outer)
    assert isinstance(held, Rows | Packed)
    return held if dim != held.dim else _more(op, held, times, "inner")


# Taken apart.


@rule("select select_copy", accepts=[Iota, Packed, Uniform])
def select(op: Op) -> Claim:
    """One place along a dim that is not the rows'."""
    of = op.operand("self")
    held = of.claim
    if isinstance(held, Uniform):
        return filled(op, op.result)
    assert isinstance(held, Rows | Packed)
    dim = of.dim(op.get("dim"))
    if dim == held.dim:
        mixes("takes one place along the rows")
    return held.at(held.dim - (dim < held.dim))


@rule("slice slice_copy narrow narrow_copy", accepts=[Iota, Packed, Uniform], sizes=True)
def cut(op: Op) -> Claim:
    """A part of a dim that is not the rows', or along the rows' whole blocks of all rows."""
    of = op.operand("self")
    held, dim = of.claim, of.dim(op.get("dim"))
    if isinstance(held, Uniform):
        return filled(op, op.result)
    start, size = op.operand("start"), op.size(op.result.shape[dim])
    if isinstance(held, Rows | Packed) and dim == held.dim:
        return held if equal(size, of.sizes[dim]) else _blocks(op, held, start, size)
    if any(op.holds_rows(op.operand(name).value) for name in ("start", "end", "length", "step")):
        mixes("cuts at a place that depends on the number of rows")
    return held


def _blocks(op: Op, held: Claim, start: Operand, size: Any) -> Rows:
    if not isinstance(held, Rows) or isinstance(held, Iota) or start.is_tensor or op.get("step", 1) != 1:
        mixes("takes some of the entries along the rows")
    block = op.batch * held.inner
    first, count = whole(op.size(0 if start.value is None else start.value) / block), whole(size / block)
    if first is None or count is None or op.holds_rows(first) or op.holds_rows(count):
        mixes("takes some of the rows")
    return dataclasses.replace(held, outer=count)


@rule(
    "split split_with_sizes chunk tensor_split unsafe_split unsafe_split_with_sizes unsafe_chunk",
    accepts=[Iota, Packed, Uniform],
    sizes=True,
)
def split(op: Op) -> Claims:
    """Parts of a dim that is not the rows', or along the rows' whole blocks of all rows."""
    of = op.operand("self")
    held, dim = of.claim, of.dim(op.get("dim"))
    if isinstance(held, Uniform):
        return [filled(op, part) for part in op.result]
    sizes = [op.size(part.shape[dim]) for part in op.result]
    if not isinstance(held, Rows | Packed) or dim != held.dim:
        if any(op.holds_rows(size) for size in sizes):
            mixes("splits at a place that depends on the number of rows")
        return op.each(held)
    if not isinstance(held, Rows) or isinstance(held, Iota):
        mixes(f"{op.name} along the rows")
    counts = [whole(size / (op.batch * held.inner)) for size in sizes]
    if any(count is None or op.holds_rows(count) for count in counts):
        mixes(f"{op.name} along the rows")
    return [dataclasses.replace(held, outer=count) for count in counts]


@rule("unbind", accepts=[Iota, Packed, Uniform])
def unbind(op: Op) -> Claims:
    """The places along a dim that is not the rows'."""
    of = op.operand("self")
    held = of.claim
    if isinstance(held, Uniform):
        return [filled(op, part) for part in op.result]
    assert isinstance(held, Rows | Packed)
    dim = of.dim(op.get("dim"))
    if dim == held.dim:
        mixes("unbind along the rows")
    return op.each(held.at(held.dim - (dim < held.dim)))
