"""Operators that give entries out several times, as views."""

from __future__ import annotations

from torchpool.contract.rows.constants import equal_along, one_entry
from torchpool.contract.rows.domain import Claim, Claims, Iota, Packed, Rows, Uniform, mixes
from torchpool.contract.rows.op import Op
from torchpool.contract.rows.pointwise import combine
from torchpool.contract.rows.registry import rule


@rule("expand expand_as expand_copy broadcast_to", accepts=[Iota, Packed, Uniform], sizes=True, donors=["other"])
def expand(op: Op) -> Claim:
    """More dims, or more equal entries along dims that have one; of a constant also for each row."""
    of = op.operand("self")
    if isinstance(of.claim, Rows | Packed):
        return of.claim.at(of.claim.dim + op.result.dim() - of.rank)
    if isinstance(of.claim, Uniform):
        return of.claim
    dims = op.rows_dims(op.result)
    if len(dims) == 1:
        return equal_along(op, dims[0], op.result.shape[dims[0]])
    if not one_entry(of.sizes):
        mixes(f"a constant of several entries is expanded to the number of rows in {len(dims)} dims")
    return Uniform()


@rule("broadcast_tensors")
def broadcast(op: Op) -> Claims:
    """Of values of one layout, once their dims are aligned at the right."""
    return op.each(combine(op, op.operands("tensors"), op.result[0].dim()))


@rule("meshgrid", accepts=[Iota])
def meshgrid(op: Op) -> Claims:
    """One of the vectors has rows: each grid has them along its dim."""
    operands = op.operands("tensors")
    place, held = next((place, of.claim) for place, of in enumerate(operands) if isinstance(of.claim, Rows))
    dim = 1 - place if op.get("indexing") == "xy" and place < 2 and len(operands) > 1 else place
    found: list[Claim] = [Rows(dim, held.outer, held.inner)] * len(operands)
    found[place] = held.at(dim)
    return found
