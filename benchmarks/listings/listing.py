"""What a listing is."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ITEMS_TO_LEARN = 256  # of a first pass, after which the graph is waited for


@dataclass(frozen=True)
class Listing:
    """A loop, and the ways to run it. Each makes all it needs in a process of its own, and gives a pass over all items;
    what a pass gives is the loop's results, or seconds, where the contender is no loop but a yardstick."""

    name: str
    title: str
    items: int
    contenders: Mapping[str, Callable[[], Callable[[], Any]]]
    same: Callable[[Any, Any], bool] = operator.eq
    """Whether a contender's results are those of `before`."""
