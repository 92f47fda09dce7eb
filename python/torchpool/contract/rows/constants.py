"""Claims of values that hold nothing but constants, and have B in their shape."""

from __future__ import annotations

from typing import Any

from torchpool.contract.rows.domain import CONST, Claim, Rows, Same, Uniform, mixes
from torchpool.contract.rows.op import Op
from torchpool.contract.rows.sizes import equal, size_of, whole


def filled(op: Op, value: Any) -> Claim:
    """Of a fake tensor whose entries are all one constant."""
    dims = op.rows_dims(value)
    if not dims:
        return CONST
    if len(dims) == 1 and equal(value.shape[dims[0]], op.batch):
        return Rows(dims[0])
    return Uniform()


def equal_along(op: Op, dim: int, size: Any) -> Rows:
    """Of a value that has `size` equal entries along `dim`, B a factor of it."""
    times = whole(size_of(size) / op.batch)
    if times is None or op.holds_rows(times):
        mixes(f"a constant is repeated {size_of(size)} times, which is no multiple of the number of rows")
    return Rows(dim) if times == 1 else Same(dim, times, 1)


def one_entry(sizes: list[Any]) -> bool:
    """Whether a shape has one entry."""
    return all(equal(size, 1) for size in sizes)
