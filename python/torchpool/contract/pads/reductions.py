"""Operators over one or several dims: those that leave them out, and those that keep them."""

from __future__ import annotations

import math
from collections.abc import Callable

from torchpool.contract.pads.domain import Claims, Fill, Kept, Number, Odd, Pad, loses, require_some
from torchpool.contract.pads.numbers import least_of
from torchpool.contract.pads.op import Op, Operand
from torchpool.contract.pads.pointwise import pointwise
from torchpool.contract.pads.registry import rule

# What an entry must be so that it does not count, and what equal entries become.
_NEUTRAL: dict[str, Callable[[Number, Operand], bool]] = {
    "sum": lambda value, of: value == 0,
    "nansum": lambda value, of: value == 0,
    "count_nonzero": lambda value, of: value == 0,
    "any": lambda value, of: value == 0,
    "all": lambda value, of: value != 0,
    "prod": lambda value, of: value == 1,
    "amax": lambda value, of: _is_below(value, of),
    "max": lambda value, of: _is_below(value, of),
    "argmax": lambda value, of: _is_below(value, of),  # of equal ones it gives the first, which is kept
    "amin": lambda value, of: value == math.inf,
    "min": lambda value, of: value == math.inf,
    "logsumexp": lambda value, of: value == -math.inf,
}
_SAME_OF_EQUAL = frozenset({"mean", "amax", "amin", "max", "min", "any", "all"})


def _is_below(value: Number, of: Operand) -> bool:
    least = least_of(of)
    return value == -math.inf or (least is not None and value <= least)


def _refuse_counting(op: Op, of: Operand, over: list[Pad], dims: list[int]) -> None:
    """Padded places must not count in what is computed over them."""
    [pad, *others] = over
    name, fill = op.name, pad.fill
    power = op.get("ord", op.get("p", 2))
    if name in ("linalg_vector_norm", "norm") and isinstance(power, int | float) and 0 < power < math.inf:
        name = "sum"
    if others:
        loses(f"{op.name} over the length in two dims")
    if name not in _NEUTRAL:
        loses(f"{op.name} over the length counts padded places")
    if fill is None or fill.about or not _NEUTRAL[name](fill.value, of):
        what = "what they hold is not known" if fill is None else f"they hold {fill.value}"
        loses(f"{op.name} over the length counts padded places: {what}")
    if name not in ("sum", "nansum", "count_nonzero", "any", "all", "prod") or fill.unless_nan:
        require_some(pad, f"{op.name} over a part of the length")
    if fill.unless_nan and pad.dim in of.kept.holes:
        loses(f"{op.name} over the length counts padded places, which may be NaN")
    if name == "argmax" and (not pad.plain or len(dims) > 1):
        loses("argmax over places that are folded with other dims tells a place that depends on the length")


@rule(
    """sum mean amax amin prod any all argmax argmin std var var_mean std_mean logsumexp special_logsumexp norm
    linalg_norm linalg_vector_norm linalg_matrix_norm frobenius_norm nuclear_norm nansum nanmean median nanmedian mode
    kthvalue aminmax count_nonzero""",
)
def reduce(op: Op) -> Claims:
    """Over other dims each place on its own; over the length what padded places hold must not count."""
    of = op.operand("self")
    dims = op.dims("dim", of)
    over = [pad for pad in of.kept.pads if pad.dim in dims]
    if over:
        _refuse_counting(op, of, over, dims)
    kept_dims = [dim for dim in range(of.rank) if dim not in dims]
    places = {dim: dim if op.get("keepdim") else dim - sum(d < dim for d in dims) for dim in kept_dims}
    held = of.kept.moved(places)
    odd, holes = _oddness(op, of, held)
    pads = tuple(pad.holding(None if over else _of_equal(op, pad.fill)) for pad in held.pads)
    place = over[0].extra if op.name == "argmax" and over and not held.pads else None
    found = Kept(pads, least=_bound(op, of), place=place, odd=odd, holes=holes)
    if isinstance(op.result, list | tuple):  # beside it the indices, of which the first is not promised
        if over:
            loses(f"{op.name} over the length tells where the value is, which may be at a padded place of equal value")
        return [found, *[Kept(tuple(pad.holding(None) for pad in held.pads))] * (len(op.result) - 1)]
    return found


def _bound(op: Op, of: Operand) -> Number | None:
    if op.name in ("linalg_vector_norm", "norm", "count_nonzero", "std", "var", "argmax"):
        return 0
    least = least_of(of)
    if op.name in ("mean", "amax", "amin", "max", "min"):
        return least
    return 0 if op.name == "sum" and least is not None and least >= 0 else None


def _oddness(op: Op, of: Operand, held: Kept) -> tuple[Odd, frozenset[int]]:
    everywhere = frozenset(pad.dim for pad in held.pads)
    if not op.result_dtype().is_floating_point:
        return "finite", frozenset()
    if op.name in ("std", "var", "var_mean", "std_mean", "norm", "linalg_norm", "nuclear_norm", "prod"):
        return ("any", everywhere) if of.kept.odd != "finite" else ("finite", frozenset())
    if of.kept.odd == "finite":
        return "finite", frozenset()
    if of.kept.odd == "nan" and op.name in ("sum", "mean"):
        return "nan", held.holes
    return "any", everywhere


def _of_equal(op: Op, fill: Fill | None) -> Fill | None:
    """Of entries that are all one constant."""
    if fill is None or fill.about or fill.unless_nan:
        return None
    if op.name in _SAME_OF_EQUAL:
        return Fill(bool(fill.value)) if op.name in ("any", "all") else fill
    return Fill(0) if op.name in ("sum", "nansum") and fill.value == 0 else None


@rule("max min")
def extreme(op: Op) -> Claims:
    """Of two tensors as any pointwise operator; of one as any reduction."""
    return pointwise(op) if "other" in op.arguments else reduce(op)


@rule("cumsum cumprod cummax cummin logcumsumexp")
def running(op: Op) -> Claims:
    """Along the length from the first place on: what is kept is computed before what is padded."""
    of = op.operand("self")
    dim = of.dim(op.get("dim"))
    pad = of.kept.pad(dim)
    if pad is not None and not bool(pad.outer == 1 and pad.inner == 1):
        loses(f"{op.name} over places that are folded with others")
    odd: Odd = "finite" if of.kept.odd == "finite" else "any"
    holes = frozenset(p.dim for p in of.kept.pads) if odd == "any" else frozenset[int]()
    if op.name == "logcumsumexp":
        odd, holes = "any", frozenset(p.dim for p in of.kept.pads)
    least = least_of(of)
    bound = 0 if op.name in ("cumsum", "cumprod") and least is not None and least >= 0 else None
    return op.each(of.kept.bare(odd=odd, holes=holes, least=bound))


@rule(
    """topk sort argsort flip roll rot90 glu unfold renorm fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft
    fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_hfft2 fft_ihfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfftn
    fft_ihfftn fft_fftshift fft_ifftshift _fft_c2c _fft_r2c _fft_c2r"""
)
def along(op: Op) -> Claims:
    """Never along the length, where each entry is moved or mixed with padded ones."""
    of = op.operand("self")
    dims = op.dims(next((name for name in ("dim", "dims", "dimension") if name in op.arguments), "dim"), of)
    if op.name == "renorm":
        dims = [dim for dim in range(of.rank) if dim not in dims]
    if any(of.kept.pad(dim) is not None for dim in dims):
        loses(f"{op.name} along the length: padded places come among those that are kept")
    odd: Odd = "finite" if of.kept.odd == "finite" else "any"
    found = of.kept.bare(odd=odd, holes=frozenset(p.dim for p in of.kept.pads) if odd == "any" else frozenset())
    return op.each(found)
