"""Operators that make a tensor of sizes and numbers."""

from __future__ import annotations

import torch

from torchpool.contract.pads.domain import Claim, Fill, Kept, Length, Number, Pad, Ramp, loses
from torchpool.contract.pads.op import Op
from torchpool.contract.pads.registry import rule

_VALUES: dict[str, Number] = {
    "zeros": 0, "new_zeros": 0, "zeros_like": 0, "ones": 1, "new_ones": 1, "ones_like": 1,
}  # fmt: skip


@rule(
    """zeros ones full new_zeros new_ones new_full zeros_like ones_like full_like empty new_empty empty_like
    empty_strided new_empty_strided scalar_tensor""",
    sizes=True,
    donors=["self"],
    facts=True,
)
def fill(op: Op) -> Claim:
    """One constant everywhere, which is not the length."""
    if isinstance(op.claims.get(op.get("fill_value")), Length) or op.name == "scalar_tensor":
        loses("a tensor is filled with the length, padding included")
    given = _VALUES.get(op.name, op.get("fill_value"))
    value: Number | None = None
    if isinstance(given, int | float) and not op.result.dtype.is_complex:
        value = torch.tensor(given).to(op.result.dtype).item()
    held = None if value is None else Fill(value)
    return Kept(_pads(op, held), value)


def _pads(op: Op, held: Fill | None) -> tuple[Pad, ...]:
    found = []
    for dim in op.sizes.dims(op.result):
        extra = op.sizes.extra(op.result.shape[dim])
        if extra is None:
            loses(f"a tensor is made with {op.size(op.result.shape[dim])} entries along the length")
        found.append(Pad(dim, extra=extra, fill=held))
    return tuple(found)


@rule("arange", sizes=True, facts=True)
def arange(op: Op) -> Claim:
    """The numbers of the places, from the first on."""
    start, step = (op.size(op.get(name, default)) for name, default in (("start", 0), ("step", 1)))
    if not op.sizes.dims(op.result):
        if any(isinstance(op.claims.get(op.get(name)), Length) for name in ("start", "end", "step")):
            loses("numbers count from a place that depends on the length, padding included")
        return Kept()
    if not start.is_Integer or step != 1:
        loses("numbers count from a place, or in steps, that depend on the length, padding included")
    ramp = Ramp(((0, 1),), int(start)) if op.result.dtype in (torch.int32, torch.int64) else None
    return Kept(_pads(op, None), ramp=ramp, least=int(start))


@rule("tril triu")
def triangle(op: Op) -> Claim:
    """A triangle of the last two dims; padded places in one of them may all be cut off, or all stay."""
    of = op.operand("self")
    shift = op.get("diagonal", 0)
    if not isinstance(shift, int):
        loses("a triangle whose diagonal is not a number")
    held = of.kept
    line, column = held.pad(of.rank - 2), held.pad(of.rank - 1)
    if any(pad is not None and not pad.plain for pad in (line, column)):
        loses("a triangle of places that are folded with others")
    pads = []
    for pad in held.pads:
        other = {of.rank - 2: column, of.rank - 1: line}.get(pad.dim)
        # Columns less lines: at least `ahead` where the column is padded and the line kept; as for the other way round.
        fill = None
        if other is not None:
            ahead = pad.extra - other.extra + 1
            low_cut, high_cut = op.name == "triu", op.name == "tril"
            if pad is column:
                cut = high_cut and ahead > shift
                stays = low_cut and ahead >= shift
            else:
                cut = low_cut and -ahead < shift
                stays = high_cut and -ahead <= shift
            fill = Fill(0) if cut else pad.fill if stays else None
        pads.append(pad.holding(fill))
    odd, holes = held.odd, held.holes
    if odd != "finite":
        holes = holes | {pad.dim for pad in pads if pad.dim >= of.rank - 2}
    return Kept(tuple(pads), odd=odd, holes=holes)


@rule("eye linspace logspace range tril_indices triu_indices hann_window hamming_window", sizes=True)
def of_places(op: Op) -> Claim:
    """Nothing: its entries depend on how many there are."""
    loses(f"{op.name} over the length depends on how long it is, padding included")
