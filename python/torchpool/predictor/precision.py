"""In what graphs compute and store weights, and how far that takes their results from the module's."""

from __future__ import annotations

import torch
from torch import nn

from torchpool.capture import OF_DTYPE, fp32_of, has_products
from torchpool.predictor.building import Built
from torchpool.predictor.options import Options

_WEIGHTS, _COMPUTED = "weights: ", "computed in "


def precision_of(options: Options, module: nn.Module | None) -> tuple[torch.dtype | None, str | None]:
    """What graphs compute in (None: what the module does), and in what they store the weights of linear layers (None:
    as they are). Both: whichever is the faster."""
    storage = OF_DTYPE.get(options.dtype) if options.dtype is not None else None
    if options.weights is not None or storage is None or module is None or options.dtype is None:
        return options.dtype, options.weights
    return (options.dtype if has_products(options.dtype) else fp32_of(module)), storage


def notes_of(built: Built, dtype: torch.dtype | None) -> tuple[str, ...]:
    """The graph's notes, and first how far it is from the module, as it was measured on the examples."""
    text = _told(built, dtype)
    if text is None or built.backend is None:
        return built.notes
    return (text, *(note for note in built.notes if not note.startswith((_WEIGHTS, _COMPUTED))))


def rounding_of(notes: tuple[str, ...]) -> str | None:
    """Of a graph's notes the one that says how far it is from the module."""
    return next((note for note in notes if note.startswith((_WEIGHTS, _COMPUTED))), None)


def _told(built: Built, dtype: torch.dtype | None) -> str | None:
    programs, off = built.programs, built.difference
    weights = None if programs is None else programs.weights
    if programs is not None and weights is not None:
        stored, layers = programs.stored
        if not stored:
            return f"{_WEIGHTS}as they are, not {weights}: {_why_none(layers)}"
        if not off.values:
            return None
        return (
            f"{_WEIGHTS}{weights} in {stored} of {layers} linear layers, outputs differ from float32 by "
            f"{100 * off.root_mean_square:.2g} % (root mean square), by {100 * off.largest:.2g} % of the largest value "
            "at most"
        )
    if dtype is None or not off.values:
        return None
    return f"{_COMPUTED}{dtype}: differs by {off.largest:.1e} of the largest value, {off.mean:.1e} on average"


def _why_none(layers: int) -> str:
    if not layers:
        return "the graph has no linear layer of float32 with a constant weight"
    return f"of its linear layers ({layers}) none is faster so here, or large enough"
