"""Softmax, and scaled dot-product attention."""

from __future__ import annotations

import math

import torch

from torchpool.contract.pads.domain import Claims, Fill, Kept, Odd, Pad, loses, require_some
from torchpool.contract.pads.fills import low_enough
from torchpool.contract.pads.op import Op, Operand
from torchpool.contract.pads.products import Letter, Lettered, lead, letters_of
from torchpool.contract.pads.registry import rule

_WEIGHT = "over the length gives weight to padded places"
_UNMASKED = f"{_WEIGHT}: no mask makes their scores -inf"


def require_unmasked(op: Op, value: float) -> None:
    """What is masked by a finite number gets its share where all places are masked."""
    op.conditions.append((
        f"{op.name} masks with {value:.4g}, not -inf: only where no row of scores is masked all over, and these "
        "are of ordinary size",
        op.node,
    ))  # fmt: skip


@rule("softmax _softmax special_softmax _safe_softmax log_softmax _log_softmax special_log_softmax")
def softmax(op: Op) -> Claims:
    """Over the length where padded scores are so low that they get no weight."""
    of = op.operand("self")
    held, dim = of.kept, of.dim(op.get("dim"))
    over = held.pad(dim)
    is_log = "log" in op.name
    if over is None:
        odd, holes = _of_rows(op, of, dim)
        return held.bare(odd=odd, holes=holes, least=None if is_log else 0)
    fill = over.fill
    if fill is None or not low_enough(fill.value, of.value.dtype) or fill.unless_nan:
        what = "" if fill is None else f", which have the score {fill.value}"
        loses(f"{op.name} {_WEIGHT + what if what else _UNMASKED}")
    if not over.plain:
        loses(f"{op.name} over places that are folded with others")
    require_some(over, f"{op.name} over a part of the length")
    exact = fill.value == -math.inf
    if not exact:
        require_unmasked(op, fill.value)
        if held.odd != "finite":
            loses(f"{op.name} of scores that are -inf at some places and {fill.value:.4g} at padded ones")
    odd, holes = _of_rows(op, of, dim)
    if is_log:
        below = Fill(-math.inf, unless_nan=True) if exact else None
        everywhere = frozenset(pad.dim for pad in held.pads)
        pads = [pad.holding(below if pad is over else None) for pad in held.pads]
        return Kept(tuple(pads), odd="any" if exact else "finite", holes=everywhere if exact else frozenset())
    zero = Fill(0.0, unless_nan=exact and op.name != "_safe_softmax")
    pads = [pad.holding(zero if pad is over else None) for pad in held.pads]
    return Kept(tuple(pads), least=0, odd=odd, holes=holes)


def _of_rows(op: Op, of: Operand, dim: int) -> tuple[Odd, frozenset[int]]:
    """A row of nothing but -inf, or with NaN in it, becomes NaN all over."""
    held = of.kept
    if held.odd == "finite" or (held.odd == "low" and op.name == "_safe_softmax"):
        return "finite", frozenset()
    if held.odd == "any":
        return "any", frozenset(pad.dim for pad in held.pads)
    if "log" in op.name and held.odd != "nan":
        return "any", frozenset(pad.dim for pad in held.pads)
    return "nan", held.holes - {dim}


@rule("scaled_dot_product_attention")
def attention(op: Op) -> Claims:
    """From each place on its own, to places that are masked where they are padded."""
    if op.get("dropout_p"):
        loses("attention with dropout draws another number for each place")
    query, key, value = (op.operand(name) for name in ("query", "key", "value"))
    mask = op.operand("attn_mask") if op.has("attn_mask") else None
    if any(of.kept.pad(of.rank - 1) is not None for of in (query, key, value)):
        loses("attention over features that are padded")
    to = key.kept.pad(key.rank - 2)
    if _bare(to) != _bare(value.kept.pad(value.rank - 2)):
        loses("attention to keys and values of different lengths")
    if to is not None:
        _refuse_unmasked(op, query, to, mask)
        if any(of.rank - 2 in of.kept.holes for of in (key, value)):
            loses("attention to padded places, of which no weight remains, but which may be infinite or NaN")
    return _from_each(op, query, key, value, mask)


def _bare(pad: Pad | None) -> Pad | None:
    return None if pad is None else Pad(0, *pad.layout)


def _refuse_unmasked(op: Op, query: Operand, to: Pad, mask: Operand | None) -> None:
    if not to.plain:
        loses("attention to places that are folded with others")
    require_some(to, "attention to a part of the length")
    if mask is None:
        attending = query.kept.pad(query.rank - 2)
        if op.get("is_causal") and attending is not None and attending.plain and attending.extra <= to.extra:
            return  # place i looks at the places up to i
        loses(f"attention {_UNMASKED}")
    over = mask.kept.pad(mask.rank - 1)
    if over is None or over.fill is None or over.fill.unless_nan:
        loses(f"attention {_UNMASKED}")
    fill = over.fill
    if over.layout != to.layout:
        loses("the mask of an attention is of another length than its keys")
    if mask.value.dtype == torch.bool:
        if fill.value:
            loses(f"attention {_WEIGHT}: its mask is True there")
        return
    if not low_enough(fill.value, mask.value.dtype):
        loses(f"attention {_WEIGHT}: its mask is {fill.value} there")
    if fill.value != -math.inf:
        require_unmasked(op, fill.value)
        if mask.kept.odd != "finite":
            loses(f"attention with a mask that is -inf at some places and {fill.value:.4g} at padded ones")


def _from_each(op: Op, query: Operand, key: Operand, value: Operand, mask: Operand | None) -> Kept:
    """A row that is masked all over becomes 0, not NaN."""
    own = 3 if op.get("enable_gqa") else 2
    heads: list[Letter] = ["heads"] * (own - 2)
    factors: list[Lettered] = []
    for of, letters in ((query, ["from", "feature"]), (key, ["to", "feature"]), (value, ["to", "result"])):
        names: list[Letter] = [*lead(of.rank)[: of.rank - own], *heads, *letters]
        pads = tuple(pad for pad in of.kept.pads if names[pad.dim] != "to")
        holes = frozenset(dim for dim in of.kept.holes if names[dim] != "to")
        factors.append((_with(of, Kept(pads, odd=of.kept.odd, holes=holes)), names))
    if mask is not None:
        names = [*lead(mask.rank)[: max(mask.rank - own, 0)], *heads, "from", "to"][-mask.rank :]
        pads = tuple(pad for pad in mask.kept.pads if names[pad.dim] != "to")
        tame = mask.kept.odd in ("finite", "low")
        holes = frozenset(dim for dim in mask.kept.holes if names[dim] != "to")
        odd: Odd = "finite" if tame else "any"
        factors.append((_with(mask, Kept(pads, odd=odd, holes=frozenset() if tame else holes)), names))
    rank = max(of.rank for of in (query, key, value))
    result: list[Letter] = [*lead(rank)[: rank - own], *heads, "from", "result"]
    return letters_of(factors, result, "attention").bare()


def _with(of: Operand, kept: Kept) -> Operand:
    return Operand(kept, of.value, of.node, of.known)
