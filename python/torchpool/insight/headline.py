"""The first line of what explain() says: are calls batched, why, and what it gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torchpool.insight.table import seconds

Answer = Literal["yes", "no", "not yet"]
_IN_ORDER: tuple[Answer, ...] = ("yes", "not yet", "no")
_FEWEST_BATCHES = 3  # of a size class, or its cost is not measured yet
_NOT_MEASURED = "expected gain not measured yet: that takes calls that ran alone and calls that ran in batches"


@dataclass(frozen=True)
class Batched:
    """Whether calls of one kind share batches."""

    calls: str
    """Their inputs, in words."""
    answer: Answer
    because: str


@dataclass(frozen=True)
class Gain:
    """What batches save, as it was measured while calls were served: of the model's own time, without hand-overs."""

    alone: float
    """Seconds of a row by itself."""
    together: float
    """Seconds of a row in the cheapest size class of batches."""
    rows: int
    """At most, of a batch of that class."""

    def __str__(self) -> str:
        return (
            f"expected gain {self.alone / self.together:.2g} x, as measured: a row takes {seconds(self.alone)} alone "
            f"and {seconds(self.together)} in batches of up to {self.rows} rows"
        )


def measured_gain(cost: Sequence[Mapping[str, Any]]) -> Gain | None:
    """From the costs in stats(): of the length for which most batches were seen, on one core where that was measured,
    since more cores are no gain of batches; None where single rows, or batches, were not measured."""
    places: dict[tuple[int, bool], list[Mapping[str, Any]]] = {}
    for one in cost:
        if one["seconds_per_item"] is not None and one["batches"] >= _FEWEST_BATCHES:
            places.setdefault((one["length"], one["one_core"]), []).append(one)
    found: list[tuple[bool, int, Gain]] = []
    for (_, one_core), classes in places.items():
        single = [one for one in classes if one["rows"] == 1]
        several = [one for one in classes if one["rows"] > 1]
        if single and several:
            best = min(several, key=lambda one: float(one["seconds_per_item"]))
            gain = Gain(single[0]["seconds_per_item"], best["seconds_per_item"], best["rows"])
            found.append((one_core, sum(one["batches"] for one in classes), gain))
    return max(found, key=lambda one: one[:2])[2] if found else None


def headline(kinds: Sequence[Batched], gain: Gain | None, nothing_learned: str) -> str:
    """In one line. `nothing_learned`: why nothing is known of any calls, in words."""
    if not kinds:
        return f"batched: not yet, because {nothing_learned}; {_NOT_MEASURED}"
    found: dict[Answer, list[Batched]] = {}
    for kind in kinds:
        found.setdefault(kind.answer, []).append(kind)
    parts = [
        f"{answer}{_which(found[answer], len(kinds))}, because {found[answer][0].because}"
        for answer in _IN_ORDER
        if answer in found
    ]
    if "yes" in found or "not yet" in found:
        expected = str(gain) if gain is not None and "yes" in found else _NOT_MEASURED
    else:
        expected = "expected gain none, since no calls share batches"
    return f"batched: {'; '.join([*parts, expected])}"


def _which(kinds: Sequence[Batched], of: int) -> str:
    """Which calls an answer is about, where there are others."""
    if len(kinds) == of == 1:
        return ""
    others = len(kinds) - 1
    more = "" if others == 0 else " and of another kind" if others == 1 else f" and of {others} other kinds"
    return f" for calls with ({kinds[0].calls}){more}"
