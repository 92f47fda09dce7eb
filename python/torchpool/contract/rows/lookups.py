"""Operators that pick entries by indices, look values up, or take numbers out of tensors."""

from __future__ import annotations

from torchpool.contract.rows import experts
from torchpool.contract.rows.domain import All, Claims, Iota, Packed, Rows, mixes
from torchpool.contract.rows.indices import picked
from torchpool.contract.rows.letters import Letter, at_right, by_letters, lead
from torchpool.contract.rows.op import Op, Operand
from torchpool.contract.rows.registry import rule
from torchpool.contract.rows.sizes import equal

_PICKS = "an index picks among"


@rule("embedding")
def embedding(op: Op) -> Claims:
    """From a table that all rows share."""
    if not op.operand("weight").is_const:
        mixes("the table of an embedding comes from rows")
    return op.operand("indices").claim


@rule("embedding_bag _embedding_bag", accepts=[Iota])
def embedding_bag(op: Op) -> Claims:
    """A bag is a row: all rows have equally many entries, and the bags begin where they do."""
    indices, offsets, weights = op.operand("indices"), op.operand("offsets"), op.operand("per_sample_weights")
    if not op.operand("weight").is_const:
        mixes("the table of an embedding comes from rows")
    if type(indices.claim) is not Rows or not isinstance(offsets.claim, Iota):
        mixes("bags that are no rows")
    entries = indices.claim.inner
    if indices.claim.outer != 1 or not offsets.claim.plain or not equal(offsets.claim.step, entries):
        mixes("bags that do not begin where rows do")
    if op.get("include_last_offset"):
        mixes("bags of which the last row is the end")
    if op.has("per_sample_weights") and weights.claim != indices.claim:
        mixes("the weights of bags are not aligned with the rows")
    others = [All(f"the {what} of bags") for what in ("numbers", "sizes", "largest entries")]
    return [Rows(0), *others]


@rule("index _unsafe_index", accepts=[Iota, Packed])
def indexed(op: Op) -> Claims:
    """By indices of all rows, of each row, or the rows' own numbers."""
    given = [None if item is None else op.operand_of(item) for item in op.get("indices")]
    return _pick(op.operand("self"), given)


@rule("index_select", accepts=[Iota, Packed])
def index_select(op: Op) -> Claims:
    """As x[:, index]."""
    target = op.operand("self")
    return _pick(target, [None] * target.dim(op.get("dim")) + [op.operand("index")])


def _pick(target: Operand, given: list[Operand | None]) -> Claims:
    indices = [(dim, index) for dim, index in enumerate(given) if index is not None]
    dim, first = indices[0]
    if len(indices) == 1 and isinstance(first.claim, Packed) and first.claim.role not in ("value", "sorted"):
        return experts.take(target, first, dim)
    found = picked(target, given)
    return by_letters([found.target, *found.indices], found.result, _PICKS)


@rule("gather")
def gather(op: Op) -> Claims:
    """Along another dim than the rows'; by an index of the same rows."""
    target, index = op.operand("self"), op.operand("index")
    own: list[Letter] = lead(max(index.rank, 1))
    own[op.get("dim")] = "index"
    picked_from: list[Letter] = lead(max(target.rank, 1))
    picked_from[op.get("dim")] = "picked"
    return by_letters([(target, picked_from), (index, own)], own, _PICKS)


@rule("take")
def take(op: Op) -> Claims:
    """Among all entries of a constant."""
    if not op.operand("self").is_const:
        mixes(f"{_PICKS} the rows")
    return op.operand("index").claim


@rule("bucketize isin")
def looked_up(op: Op) -> Claims:
    """In values that all rows share."""
    given, values = op.operand(op.first("self", "elements", "element")), op.operand(
        op.first("boundaries", "test_elements", "test_element"))  # fmt: skip
    if not values.is_const:
        mixes(f"{op.name} looks up in values of rows")
    return given.claim


@rule("searchsorted")
def searchsorted(op: Op) -> Claims:
    """In one sequence for all, or in one for each of the leading dims."""
    given, sequence, sorter = op.operand("self"), op.operand("sorted_sequence"), op.operand("sorter")
    if not given.is_tensor:
        mixes("searchsorted looks up in values of rows")
    letters = [*lead(given.rank)[:-1], "place"]
    of_sequence = [*at_right(letters, sequence)[:-1], "sequence"]
    return by_letters([(given, letters), (sequence, of_sequence), (sorter, of_sequence)], letters, "searchsorted in")


@rule("""
    nonzero nonzero_numpy nonzero_static argwhere masked_select _unique _unique2 unique_dim unique_consecutive
""")
def selection(op: Op) -> Claims:
    """Never: how many entries a row has depends on values, and so where the next begins."""
    mixes(f"{op.name} over the rows: how many entries it gives depends on all of them")


@rule("item _local_scalar_dense is_nonzero equal allclose")
def number(op: Op) -> Claims:
    """Never: one number of all rows, or of one."""
    mixes("a number is taken from rows")
