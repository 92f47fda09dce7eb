"""Operators that give a tensor of which some entries are replaced or added to, at places that are given."""

from __future__ import annotations

from torchpool.contract.rows import experts
from torchpool.contract.rows.domain import Claims, Iota, Packed, Rows, Uniform, agree, mixes, show
from torchpool.contract.rows.indices import is_mask, picked
from torchpool.contract.rows.letters import Letter, at_right, by_letters
from torchpool.contract.rows.op import Op, Operand
from torchpool.contract.rows.registry import rule
from torchpool.contract.rows.sizes import equal, product


def _of_one_layout(op: Op, operands: list[Operand]) -> Rows:
    """The layout of tensors that all have the rows: a constant, or a shorter one, would be one for some rows only."""
    layout = operands[0].claim
    for operand in operands:
        both = agree(layout, operand.claim)
        if not isinstance(both, Rows):
            mixes(f"{op.name} of rows that are not aligned: {show(layout)}, {show(operand.claim)}")
        layout = both
    assert isinstance(layout, Rows)
    return layout


@rule("scatter scatter_add scatter_reduce")
def scattered(op: Op) -> Claims:
    """Along another dim than the rows'; index and source have the same rows."""
    target, source = op.operand("self"), op.operand(op.first("src", "value"))
    layout = _of_one_layout(op, [target, op.operand("index"), *([source] if source.is_tensor else [])])
    if layout.dim == target.dim(op.get("dim")):
        mixes(f"{op.name} along the rows")
    return layout


@rule("index_add index_copy index_fill index_reduce", accepts=[Packed, Uniform])
def written_at_places(op: Op) -> Claims:
    """At places that all rows share, or those of a list of rows."""
    target, index, source = op.operand("self"), op.operand("index"), op.operand(op.first("source", "value"))
    dim = target.dim(op.get("dim"))
    if isinstance(index.claim, Packed):
        return experts.put_back(op, target, index, source, dim)
    if not index.is_const:
        mixes(f"{op.name} at places from rows")
    layout = _of_one_layout(op, [target] if op.name == "index_fill" else [target, source])
    if layout.dim == dim:
        mixes(f"{op.name} along the rows")
    return layout


@rule("masked_scatter")
def masked_scatter(op: Op) -> Claims:
    """Never: which value an entry gets depends on how many the mask has in the rows before."""
    mixes("masked_scatter takes values in the order of all rows")


@rule("put")
def put(op: Op) -> Claims:
    """Never: places are counted through all rows."""
    mixes("put writes at places that are counted through all rows")


@rule("select_scatter slice_scatter")
def written_part(op: Op) -> Claims:
    """A part along another dim than the rows'."""
    target, source = op.operand("self"), op.operand("src")
    letters: list[Letter] = list(range(target.rank))
    letters[target.dim(op.get("dim"))] = "part"
    part = [letter for letter in letters if letter != "part"] if op.name == "select_scatter" else letters
    return by_letters([(target, letters), (source, part)], range(target.rank), f"{op.name} along")


@rule("index_put _index_put_impl _unsafe_index_put", accepts=[Iota, Packed, Uniform])
def index_put(op: Op) -> Claims:
    """At places that are each row's own: as `index` picks them. Values have the same rows."""
    target, values = op.operand("self"), op.operand("values")
    given = [None if item is None else op.operand_of(item) for item in op.get("indices")]
    indices = [(dim, index) for dim, index in enumerate(given) if index is not None]
    dim, first = indices[0]
    if len(indices) == 1:
        if (inverse := experts.inverse_by_writing(op, target, first, values)) is not None:
            return inverse
        if isinstance(first.claim, Packed):
            return experts.put_back(op, target, first, values, dim)
    if type(target.claim) is not Rows:
        mixes(f"writes over {show(target.claim)}")
    if len(indices) == 1 and is_mask(first) and not first.is_const:
        return _masked(target, dim, first, values)
    found = picked(target, given)
    written = (values, at_right(found.result, values))
    by_letters([found.target, *found.indices, written], found.result, "writes among")
    return target.claim


def _masked(target: Operand, dim: int, mask: Operand, values: Operand) -> Claims:
    """One value wherever a mask says so: as `masked_fill`."""
    if not equal(product(values.sizes), 1):
        mixes("writes by a mask: which value an entry gets depends on how many the mask has in the rows before")
    letters = list(range(target.rank))
    return by_letters([(target, letters), (mask, letters[dim:][: mask.rank])], letters, "writes among")
