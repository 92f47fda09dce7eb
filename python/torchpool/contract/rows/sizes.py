"""Sizes as expressions: torch's symbolic ints brought to polynomials where they are, and whole quotients."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import sympy  # type: ignore[import-untyped]  # has no types
import torch
from torch.utils._sympy.functions import FloorDiv
from torch.utils._sympy.symbol import SymT, symbol_is_type


def size_of(size: Any) -> Any:
    """An int, SymInt or expression as an expression, simplified: x * d // d and (x * d + d - 1) // d are x."""
    if not isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
        return sympy.sympify(size)
    return _simplified(size.node.expr)


@functools.cache
def _simplified(found: Any) -> Any:
    return found.replace(lambda e: type(e).__name__ in ("FloorDiv", "CleanDiv"), lambda e: _divided(*e.args))


def _divided(value: Any, by: Any) -> Any:
    for rest in (0, by - 1):
        found = sympy.cancel(sympy.expand(value - rest) / by)
        if sympy.fraction(sympy.together(found))[1] == 1:
            return sympy.expand(found)
    return FloorDiv(value, by)


def sizes_of(value: torch.Tensor) -> list[Any]:
    """The shape as expressions."""
    return [size_of(size) for size in value.shape]


def product(sizes: Iterable[Any]) -> Any:
    """1 for no sizes."""
    found = sympy.Integer(1)
    for size in sizes:
        found = found * size
    return found


def whole(fraction: Any) -> Any | None:
    """The quotient where it is a product of whole numbers and sizes, else None."""
    found = sympy.cancel(sympy.sympify(fraction))
    if found.has(sympy.Float):  # of ints that Python divided
        return None
    _, bottom = sympy.fraction(sympy.together(found))
    return found if bottom == 1 else None


def equal(first: Any, second: Any) -> bool:
    """Whether two sizes are the same for all values of the free sizes."""
    return bool(sympy.expand(size_of(first) - size_of(second)) == 0)


def holds(size: Any, batch: Any) -> bool:
    """Whether a size depends on the number of rows."""
    if not isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool | sympy.Basic):
        return False
    return batch in size_of(size).free_symbols


def from_values(size: Any) -> frozenset[Any]:
    """The symbols in a size that are only known once values are: how many entries a mask picks, a number that is read
    from a tensor."""
    if not isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool | sympy.Basic):
        return frozenset()
    return frozenset(
        symbol
        for symbol in size_of(size).free_symbols
        if symbol_is_type(symbol, (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT))
    )
