"""Operators that make a tensor of sizes and numbers."""

from __future__ import annotations

import torch

from torchpool.contract.rows.constants import filled
from torchpool.contract.rows.domain import Claim, Count, Iota, Packed, Rows, Uniform, mixes, unknown
from torchpool.contract.rows.op import Op
from torchpool.contract.rows.registry import rule
from torchpool.contract.rows.sizes import equal, product, whole


@rule(
    "zeros ones empty full empty_strided empty_permuted new_zeros new_ones new_empty new_full new_empty_strided",
    sizes=True,
    donors=["self"],
)
def fill(op: Op) -> Claim:
    """One constant everywhere, which is not the number of rows: rows where one dim has as many entries."""
    if isinstance(op.operand("fill_value").claim, Count):
        mixes("a tensor is filled with the number of rows")
    if op.has("stride") and not _is_contiguous(op):
        unknown("rows may share memory in a tensor of such strides")
    return filled(op, op.result)


def _is_contiguous(op: Op) -> bool:
    sizes = [op.size(size) for size in op.get("size")]
    strides = [op.size(stride) for stride in op.get("stride")]
    return all(equal(stride, product(sizes[dim + 1 :])) for dim, stride in enumerate(strides))


@rule("zeros_like ones_like empty_like full_like", donors=["self"])
def fill_like(op: Op) -> Claim:
    """One constant everywhere: rows as the value has them whose shape it gets."""
    held = op.operand("self").claim
    if isinstance(held, Rows):
        return Rows(held.dim, held.outer, held.inner)
    if isinstance(held, Packed):
        return Uniform()
    return filled(op, op.result)


@rule("scalar_tensor", sizes=True)
def of_number(op: Op) -> Claim:
    """Nothing: it gets here with the number of rows only."""
    mixes("a tensor is made of the number of rows")


@rule(
    """eye linspace logspace range tril_indices triu_indices hann_window hamming_window bartlett_window
    blackman_window kaiser_window""",
    sizes=True,
)
def of_places(op: Op) -> Claim:
    """Nothing: its entries differ by their place, and it gets here with the number of rows only."""
    mixes(f"{op.name} over the number of rows: each row's entries depend on which row it is")


@rule("arange", sizes=True)
def arange(op: Op) -> Claim:
    """The numbers of the rows, or of the entries that they are folded into; good to index rows."""
    start, end, step = (op.size(op.get(name, default)) for name, default in (("start", 0), ("end", 0), ("step", 1)))
    if start != 0:
        mixes("numbers rows from another start than 0")
    if op.result.dtype not in (torch.int32, torch.int64):
        mixes(f"numbers rows in {op.result.dtype}, which does not hold each number")
    if op.holds_rows(step):
        mixes("counts in steps of the number of rows")
    if equal(end, op.batch * step):
        return Iota(0, step=step)
    inner = whole(end / op.batch)
    if step != 1 or inner is None or op.holds_rows(inner):
        mixes("numbers something else than rows, from the number of rows")
    return Iota(0, inner=inner)
