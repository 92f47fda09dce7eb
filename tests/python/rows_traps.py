"""Small models written to fool the proof that rows are independent, and safe ones that look like them.

A model is a function of itself (for its layer and its table of weights) and of the call's tensors: [rows, 8] unless it
says otherwise. What `leak` enters must never be proven, what `safe` enters must be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from support import build, draw
from torch import Tensor, nn

CLASSES = (
    "pointwise", "creation", "reductions", "reshaping", "parts", "products", "layers", "recurrent", "attention",
    "lookups", "writes", "experts", "memory", "sizes",
)  # fmt: skip

Function = Callable[..., Any]
Calls = Callable[[int], tuple[Tensor, ...]]
"""Of a seed: one call of one row."""


def floats(*shape: int) -> Calls:
    """Calls of one tensor [1, *shape] of random numbers."""
    return lambda seed: (draw(1, *shape, seed=seed),)


def ids(length: int = 6, below: int = 20) -> Calls:
    """Calls of one tensor [1, length] of ids from 1."""
    return lambda seed: (torch.randint(1, below, (1, length), generator=torch.Generator().manual_seed(seed)),)


class Model(nn.Module):
    """A function with a layer and a table of weights [64, 8] at hand."""

    table: Tensor

    def __init__(self, function: Function, layer: Callable[[], nn.Module] | None) -> None:
        super().__init__()
        self.function = function
        self.layer = nn.Identity() if layer is None else layer()
        self.register_buffer("table", draw(64, 8, seed=99))

    def forward(self, *given: Tensor) -> Any:
        return self.function(self, *given)


@dataclass(frozen=True)
class Trap:
    """A model, and whether its rows meet."""

    kind: str
    """One of CLASSES: the rules that it is about."""
    name: str
    leak: bool
    function: Function
    calls: Calls
    layer: Callable[[], nn.Module] | None
    unseen: str | None = None
    """Why results of a batch do not show the leak."""
    graph: bool = True
    """Whether it can be exported."""

    def build(self) -> nn.Module:
        return build(lambda: Model(self.function, self.layer))

    def batches(self) -> list[list[tuple[Tensor, ...]]]:
        """Some batches of calls of one row, with values far from each other."""
        found = [[self._scaled(seed, 3.0**seed) for seed in range(4)], [self._scaled(seed, 1.0) for seed in range(5)]]
        found.append([self._scaled(seed, math.nan if seed == 1 else 1.0) for seed in range(3)])
        found.append([self._scaled(seed, 0.0 if seed % 2 else 1.0) for seed in range(4)])
        return found

    def _scaled(self, seed: int, by: float) -> tuple[Tensor, ...]:
        return tuple(one * by if one.is_floating_point() else one for one in self.calls(seed))


TRAPS: list[Trap] = []


def leak(
    kind: str,
    name: str,
    function: Function,
    *,
    calls: Calls = floats(8),  # noqa: B008  # a function without state
    layer: Callable[[], nn.Module] | None = None,
    unseen: str | None = None,
    graph: bool = True,
) -> None:
    """Enters a model whose rows meet."""
    TRAPS.append(Trap(kind, name, True, function, calls, layer, unseen, graph))


def safe(
    kind: str,
    name: str,
    function: Function,
    *,
    calls: Calls = floats(8),  # noqa: B008  # a function without state
    layer: Callable[[], nn.Module] | None = None,
) -> None:
    """Enters a model whose rows do not meet."""
    TRAPS.append(Trap(kind, name, False, function, calls, layer))
