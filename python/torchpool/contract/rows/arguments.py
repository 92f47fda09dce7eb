"""What a rule reads of an operator's arguments, whatever the proof claims of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

C = TypeVar("C")


class Ranked(Protocol):
    """A tensor that an operator is given."""

    @property
    def rank(self) -> int:
        """Of how many dims."""

    def dim(self, dim: int) -> int:
        """A dim counted from 0."""


class Arguments:
    """Of one operator: the part of an Op that knows no claims."""

    name: str
    arguments: Mapping[str, Any]
    result: Any

    def has(self, name: str) -> bool:
        """Whether an argument is there and not None."""
        return self.arguments.get(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """An argument as it is in the graph: a Node, a plain value, a list."""
        return self.arguments.get(name, default)

    def first(self, *names: str) -> str:
        """Which of these names the operator's schema has."""
        return next(name for name in names if name in self.arguments)

    def dims(self, name: str, of: Ranked) -> list[int]:
        """An argument that is one dim or several, counted from 0; none: all dims of the operand."""
        given = self.arguments.get(name)
        if given is None or given == []:
            return list(range(of.rank))
        return [of.dim(dim) for dim in (given if isinstance(given, list | tuple) else [given])]

    def each(self, claim: C) -> C | list[C]:
        """The same claim for the result, or for each of several."""
        return [claim] * len(self.result) if isinstance(self.result, list | tuple) else claim

    def order(self, of: Ranked) -> list[int]:
        """For an operator that brings the dims of the operand into another order: where each comes from."""
        order = list(range(of.rank))
        if self.name in ("t", "numpy_T", "matrix_H"):
            order.reverse()
        elif self.name in ("mT", "mH", "adjoint"):
            order[-2:] = order[:-3:-1]
        elif self.name in ("movedim", "moveaxis"):
            taken, places = self.dims("source", of), self.dims("destination", of)
            order = [dim for dim in order if dim not in taken]
            for place, dim in sorted(zip(places, taken, strict=True)):
                order.insert(place, dim)
        else:
            first, second = (of.dim(self.get(self.first(*pair))) for pair in (("dim0", "axis0"), ("dim1", "axis1")))
            order[first], order[second] = second, first
        return order
