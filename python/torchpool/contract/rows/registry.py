"""The rules: which function says of an operator how its result depends on rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from torchpool.contract.rows.domain import Claim, Claims

Rule = Callable[[Any], Claims]  # of an op.Op; Any, so that functions of tests need no types
R = TypeVar("R", bound=Callable[[Any], Any])


@dataclass(frozen=True)
class Entry:
    """A rule and what it may be given."""

    function: Rule
    accepts: tuple[type, ...]
    """Claims beside Const, Rows and Same that the rule knows to handle: Iota, Packed, Ends, Uniform."""
    sizes: bool
    """B may be among the operator's sizes (view, expand, arange)."""
    donors: tuple[str, ...] = ()
    """Arguments of which only dtype, device and shape are used: they may be All."""


_RULES: dict[str, Entry] = {}


def rule(
    *names: str, accepts: Iterable[type[Claim]] = (), sizes: bool = False, donors: Iterable[str] = ()
) -> Callable[[R], R]:
    """Registers a rule for operators: "linear" (of aten), "mylib::op"; several in one text are split at blanks.

    A rule is called only where an operand depends on rows or B is in the result's shape. It gets an `Op`, gives the
    claim of the result (a list for several results) or calls `mixes` or `unknown`. Unless `accepts` names them,
    operands that are Iota, Packed, Ends or Uniform make the result All; so does B as a number, unless `sizes`. An
    in-place operator ("add_") has the rule of its name without the last underscore. Of `donors` only dtype, device and
    shape are used, so that they may be anything.
    """

    def keep(function: R) -> R:
        for text in names:
            for name in text.split():
                _RULES[name] = Entry(function, tuple(accepts), sizes, tuple(donors))
        return function

    return keep


def find(name: str) -> Entry | None:
    """The rule of an operator."""
    return _RULES.get(name)


def rules() -> dict[str, Entry]:
    """All rules by operator."""
    return dict(_RULES)
