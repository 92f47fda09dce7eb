"""The rules: which function says of an operator how padding changes its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from torchpool.contract.pads.domain import Claims

Rule = Callable[[Any], Claims]  # of an op.Op
R = TypeVar("R", bound=Callable[[Any], Any])


@dataclass(frozen=True)
class Entry:
    """A rule and what it may be given."""

    function: Rule
    sizes: bool
    """The length may be among the operator's sizes (view, expand, arange)."""
    donors: tuple[str, ...]
    """Arguments of which only dtype, device and shape are used: they may be Lost."""
    facts: bool
    """It is asked where nothing that it is given has pads, too: for what it knows of constants."""


_RULES: dict[str, Entry] = {}


def rule(*names: str, sizes: bool = False, donors: Iterable[str] = (), facts: bool = False) -> Callable[[R], R]:
    """Registers a rule for operators, named as in `rows.registry`; several in one text are split at blanks.

    A rule is called only where an operand has pads or the length is in the result's shape, or with `facts`. It gets an
    `Op`, gives the claim of the result (a list for several results) or calls `loses`.
    """

    def keep(function: R) -> R:
        for text in names:
            for name in text.split():
                _RULES[name] = Entry(function, sizes, tuple(donors), facts)
        return function

    return keep


def find(name: str) -> Entry | None:
    """The rule of an operator."""
    return _RULES.get(name)


def rules() -> dict[str, Entry]:
    """All rules by operator."""
    return dict(_RULES)
