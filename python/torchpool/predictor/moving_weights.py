"""What is found out about a model while somebody writes its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from torchpool import _core

T = TypeVar("T")

_PROBES = 4


def at_rest(module: nn.Module | None, probe: Callable[[], T]) -> T:
    """What a probe finds during which no weights changed: between two of its runs a change would look like state, or
    like rows that meet. Of weights that never rest, what the last of some probes finds."""
    weights = [] if module is None else list(module.parameters())
    for _ in range(_PROBES - 1):
        watch = _core.WeightWatch(weights)
        found = probe()
        if watch.look() == "same":
            return found
    return probe()
