"""What is claimed of a value in a graph: how it changes when a length is padded.

A graph is run twice in thought: on calls of n places, and on the same calls padded on the right to L places, n at least
1. Of each dim that runs along the length the first entries are kept, and equal in both runs but for rounding; the
others are padded. "Finite" means: where all that the call itself computes is finite, and no number of ordinary size
overflows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch

Number = int | float | bool
Size = Any
"""An int, or a sympy expression over the free sizes."""
Odd = Literal["finite", "low", "nan", "both", "any"]
"""What entries may be that are not finite: none are, all of them -inf, all of them NaN, these two, any."""


@dataclass(frozen=True)
class Fill:
    """A constant that entries at padded places are."""

    value: Number
    about: bool = False
    """They are that plus something of ordinary size."""
    unless_nan: bool = False
    """One may be NaN instead, as far as the holes of the value allow: where kept ones are NaN, too."""


@dataclass(frozen=True)
class Pad:
    """Dim `dim` has outer * (length + extra) * inner entries, of which (o, t, i) is kept for t < n + extra."""

    dim: int
    outer: Size = 1
    inner: Size = 1
    extra: int = 0
    fill: Fill | None = None
    """Of entries that are padded along this dim and kept along all others; None: not known."""

    @property
    def plain(self) -> bool:
        """One entry a place."""
        return bool(self.outer == 1 and self.inner == 1)

    @property
    def layout(self) -> tuple[Size, Size, int]:
        """How places lie in the dim."""
        return self.outer, self.inner, self.extra

    def holding(self, fill: Fill | None) -> Pad:
        """With another fill."""
        return dataclasses.replace(self, fill=fill)


@dataclass(frozen=True)
class Ramp:
    """Each entry, padded or not, is an int: start plus the sum of each dim's factor times the place in that dim. These
    are dims of plain pads."""

    factors: tuple[tuple[int, int], ...]
    start: int = 0

    def times(self, by: int) -> Ramp:
        """All of it multiplied."""
        return Ramp(tuple((dim, factor * by) for dim, factor in self.factors), self.start * by)

    def plus(self, other: Ramp) -> Ramp:
        """The sum of both."""
        found = dict(self.factors)
        for dim, factor in other.factors:
            found[dim] = found.get(dim, 0) + factor
        return Ramp(tuple(sorted(found.items())), self.start + other.start)


@dataclass(frozen=True)
class Kept:
    """Entries at kept places are equal in both runs; without pads the whole value is."""

    pads: tuple[Pad, ...] = ()
    value: Number | None = None
    """What each entry is, padded or not."""
    ramp: Ramp | None = None
    least: Number | None = None
    """No entry, padded or not, is below it, NaN aside."""
    place: int | None = None
    """Entries, but for padded ones, are places before n + place, none of them counted from the end."""
    odd: Odd = "finite"
    holes: frozenset[int] = frozenset()
    """Of an entry that is not finite, all entries that differ from it along other pads only are the same. So if it is
    padded along these only, the call itself has entries that are not finite."""

    def pad(self, dim: int) -> Pad | None:
        """Of a dim that runs along the length."""
        return next((pad for pad in self.pads if pad.dim == dim), None)

    def moved(self, places: Mapping[int, int]) -> Kept:
        """The same once each dim of pads is another; dims that are not named stay away."""
        pads = tuple(dataclasses.replace(pad, dim=places[pad.dim]) for pad in self.pads if pad.dim in places)
        holes = frozenset(places[dim] for dim in self.holes if dim in places)
        ramp = self.ramp
        if ramp is not None and all(dim in places for dim, _ in ramp.factors):
            ramp = Ramp(tuple(sorted((places[dim], factor) for dim, factor in ramp.factors)), ramp.start)
        else:
            ramp = None
        return dataclasses.replace(self, pads=tuple(sorted(pads, key=lambda p: p.dim)), ramp=ramp, holes=holes)

    def shifted(self, place: Callable[[int], int]) -> Kept:
        """As `moved`, by a function."""
        return self.moved({pad.dim: place(pad.dim) for pad in self.pads})

    def bare(self, **facts: Any) -> Kept:
        """With nothing known but which entries are kept and which are finite; and these facts."""
        pads = tuple(pad.holding(None) for pad in self.pads)
        return Kept(**{"pads": pads, "odd": self.odd, "holes": self.holes, **facts})


@dataclass(frozen=True)
class Length:
    """A number computed from the length."""


@dataclass(frozen=True)
class Lost:
    """Kept entries may depend on padded ones, or on how many there are."""

    why: str
    node: torch.fx.Node | None = None
    """Where it began; filled in by the proof."""


Claim = Kept | Length | Lost
Claims = Claim | Sequence[Claim]
"""Of a node: one claim, or one for each of its results."""

SAME = Kept()


class Loses(Exception):
    """Raised by a rule: padded places reach what is kept, or may do so."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def loses(why: str) -> NoReturn:
    """Of a rule: padded places count here. `why` says it in words that a user can act on."""
    raise Loses(why)


def require_some(pad: Pad, what: str) -> None:
    """Of a rule: the shortest calls must have a place here."""
    if pad.extra < 0:
        loses(f"{what}: calls of {-pad.extra} places have none left there, and padded ones do")


def either(first: Odd, second: Odd) -> Odd:
    """What entries may be that are one of two values."""
    if first == second or second == "finite":
        return first
    if first == "finite":
        return second
    return "any" if "any" in (first, second) else "both"
