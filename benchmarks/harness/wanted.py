"""Figures beside what is wanted of them, as a small table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One thing that was measured. NaN stands for one that was not, `missing` says why."""

    what: str
    reached: float
    wanted: float
    """The limit; NaN where none is set."""
    at_least: bool = False
    """The figure is to be no lower than the limit; otherwise no higher."""
    form: str = "{:.2f}"
    missing: str = "failed"

    @property
    def good(self) -> bool | None:
        """None where nothing was measured, or nothing is wanted."""
        if math.isnan(self.reached) or math.isnan(self.wanted):
            return None
        return self.reached >= self.wanted if self.at_least else self.reached <= self.wanted

    def __str__(self) -> str:
        reached = self.missing if math.isnan(self.reached) else self.form.format(self.reached)
        limit = "" if math.isnan(self.wanted) else f"{'>=' if self.at_least else '<='} {self.form.format(self.wanted)}"
        verdict = {None: "", True: "yes", False: "no"}[self.good]
        return f"  {self.what:58}{reached:>14}{limit:>14}  {verdict}".rstrip()


def share(what: str, reached: float, wanted: float, missing: str = "failed") -> Figure:
    """A part of something, in percent, that is to be large."""
    return Figure(what, 100 * reached, 100 * wanted, at_least=True, form="{:.0f} %", missing=missing)


def table(figures: Sequence[Figure]) -> str:
    return "\n".join([f"  {'':58}{'reached':>14}{'wanted':>14}", *map(str, figures)])


def report(figures: Sequence[Figure]) -> int:
    """Prints the table; the exit code says whether all is good."""
    print(table(figures))
    return 0 if all_good(figures) else 1


def all_good(figures: Sequence[Figure]) -> bool:
    """Whether nothing that was measured falls short; what was not measured does not count."""
    return all(figure.good is not False for figure in figures)
