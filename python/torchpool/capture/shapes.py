"""The sizes of a capture: the sizes that export is given, and the conditions that export then puts on calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]  # has no types
import torch
from torch.export import Dim
from torch.utils._sympy.functions import Mod
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from torchpool.contract import (
    Contract,
    InputSpec,
    Leaves,
    ShapeCheck,
    ShapeEqual,
    lengths_of,
    with_lengths,
    with_rows,
)

# Rows of the example, or calls where these are counted: export takes sizes 0 and 1 for special.
_ROWS = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
_CEILINGS = (1 << 24, 1 << 20, 1 << 16, 1 << 13)  # of lengths, to try where export asks for one
_MOST_ROWS = 1 << 30  # without a bound export takes a single row for special


class NotExpressible(Exception):
    """Export found a condition on sizes that no check can express."""


def sizes_of(spec: InputSpec) -> tuple[int | str, ...]:
    """Per dim of the merged input: a fixed size, "batch" or a symbol."""
    return ("batch", *spec.sizes) if spec.stacked else spec.sizes


def example(
    samples: Sequence[Leaves],
    contract: Contract,
    *,
    free: bool,
    taken: Collection[int] = frozenset(),
    units: int | None = None,
) -> Leaves:
    """Inputs for export: at least 3 rows and, for free lengths, no length of 0 or 1.

    The number of rows, or of calls where the contract counts these, is no other size and none of those `taken`, unless
    `units` says it.
    """
    sample = samples[0]
    if contract.mode != "merge":
        return [leaf.detach().clone() for leaf in sample]
    if free:
        able = [one for one in samples if min(lengths_of(one, contract).values(), default=2) >= 2]
        sample = able[0] if able else with_lengths(sample, contract, lambda symbol: 7)
    taken = {size for leaf in sample for size in leaf.shape}.union(taken)
    return with_rows(sample, contract, (units or unlike(taken, contract)) * (contract.call_rows or 1))


def unlike(taken: Collection[int], contract: Contract) -> int:
    """A number of rows, or of calls of several rows, that no other size can be taken for."""
    rows = contract.call_rows or 1
    return next((units for units in _ROWS if units not in taken and units * rows not in taken), _ROWS[0])


def dynamic_shapes(contract: Contract, *, free: bool) -> dict[str, Any]:
    """For export of a forward(*leaves): the batch has a name, so that all inputs share it and it cannot be frozen."""
    rows = contract.call_rows or 1
    batch: Any = Dim("batch", min=1, max=_MOST_ROWS // rows)

    def of(spec: InputSpec) -> dict[int, Any]:
        if contract.mode != "merge":
            return {}
        found: dict[int, Any] = {}
        for dim, size in enumerate(sizes_of(spec)):
            if size == "batch":
                found[dim] = batch if rows == 1 else rows * batch
            elif free and isinstance(size, str):
                found[dim] = Dim.AUTO
        return found

    return {"leaves": tuple(of(spec) for spec in contract.inputs)}


def read_checks(
    inputs: Sequence[torch.Tensor], contract: Contract, *, free: bool
) -> tuple[list[ShapeCheck | ShapeEqual], list[str]]:
    """What the exported program asks of its inputs (given as the fake tensors of its placeholders), and in words which
    lengths it froze. Raises NotExpressible where it asks for more than ranges and equal sizes."""
    checks: list[ShapeCheck | ShapeEqual] = []
    frozen: list[str] = []
    places: dict[sympy.Symbol, list[tuple[int, int]]] = defaultdict(list)
    for index, (leaf, spec) in enumerate(zip(inputs, contract.inputs, strict=True)):
        for dim, size in enumerate(sizes_of(spec)):
            got = _expression(leaf.shape[dim])
            if size == "batch":
                got = sympy.cancel(got / (contract.call_rows or 1))  # of a named size export keeps what it was told
            if isinstance(got, sympy.Symbol):
                places[got].append((index, dim))
            elif not got.is_Integer:
                raise NotExpressible(f"the size of dim {dim} of {spec.name} must be of the form {got}")
            elif isinstance(size, str):
                checks.append(ShapeCheck(index, dim, int(got), int(got)))
                if free or size == "batch":
                    frozen.append(f"length dim {dim} of {spec.name} was specialised to {got}")
    shape_env = _shape_env(inputs)
    if shape_env is None:
        return checks, frozen
    lengths = [s for s, where in places.items() if sizes_of(contract.inputs[where[0][0]])[where[0][1]] != "batch"]
    ranges = _ranges(shape_env, lengths)
    for symbol, where in places.items():
        low, high = int(ranges[symbol].lower) if symbol in lengths else 1, ranges[symbol].upper
        most = int(high) if high.is_Integer and int(high) < _MOST_ROWS else None
        if low > 1 or most is not None:
            checks += [ShapeCheck(index, dim, low, most) for index, dim in where]
        checks += [ShapeEqual(*where[0], *other) for other in where[1:]]
    return checks, frozen


def _expression(size: Any) -> Any:
    return sympy.Integer(size) if isinstance(size, int) else size.node.expr


def _shape_env(inputs: Sequence[torch.Tensor]) -> Any:
    sizes: list[Any] = [size for leaf in inputs for size in leaf.shape]
    return next((size.node.shape_env for size in sizes if not isinstance(size, int)), None)


def unmet(shape_env: Any, ranges: dict[Any, Any]) -> sympy.Basic | None:
    """A condition that the export relied on and that does not follow from the ranges of the sizes."""
    for guard in shape_env.guards:
        condition = shape_env.simplify(guard.expr)
        if condition in (sympy.true, True):
            continue
        if any(symbol not in ranges for symbol in condition.free_symbols) or not _follows(condition, ranges):
            return condition
    return None


def _follows(condition: sympy.Basic, ranges: dict[Any, Any]) -> bool:
    """Whether a condition on sizes holds for all of these ranges, as far as it can be seen."""
    condition = condition.replace(Mod, lambda value, by: _remainder(value, by, ranges))
    if condition in (sympy.true, True) or bound_sympy(condition, ranges).lower in (sympy.true, True):
        return True
    if not isinstance(condition, sympy.core.relational.Relational):
        return False
    # Bounds do not see that the terms of a side, or both sides, have a size in common.
    left, right = condition.lhs, condition.rhs
    for form in ((sympy.factor(left), sympy.factor(right)), (sympy.factor(left - right), 0)):
        if bound_sympy(condition.func(*form), ranges).lower in (sympy.true, True):
            return True
    return False


def _remainder(value: sympy.Basic, by: sympy.Basic, ranges: dict[Any, Any]) -> sympy.Basic:
    """`value % by`, which is 0 where the value is a multiple of the other, and the value itself the other way round."""
    times = sympy.cancel(by / value)
    if sympy.cancel(value / by).is_integer:
        return sympy.Integer(0)
    if bound_sympy(value, ranges).lower >= 1 and times.is_integer and bound_sympy(times, ranges).lower >= 2:
        return value
    return Mod(value, by)


def _ranges(shape_env: Any, lengths: Sequence[sympy.Symbol]) -> dict[Any, Any]:
    """The ranges of sizes in which all conditions of the export hold."""
    # As the batch has a name, a condition on it alone would have been refused. At least 2 it is only because export
    # takes a single row for special, and one row is always proven.
    for fewest in (1, 2):
        ranges = dict(shape_env.var_to_range)
        for symbol in ranges.keys() - set(lengths):
            if ranges[symbol].lower == 2:
                ranges[symbol] = ValueRanges(sympy.Integer(fewest), ranges[symbol].upper)
        try:
            _narrow(shape_env, ranges, lengths)
        except NotExpressible:
            if fewest == 2:
                raise
            continue
        break
    return ranges


def _narrow(shape_env: Any, ranges: dict[Any, Any], lengths: Sequence[sympy.Symbol]) -> None:
    """Narrows the ranges of lengths, around the example's, until each condition of the export follows from them."""
    while (condition := unmet(shape_env, ranges)) is not None:
        if not any(_narrow_one(shape_env, ranges, symbol, condition) for symbol in lengths):
            raise NotExpressible(f"the program is only right where {condition}")


def _narrow_one(shape_env: Any, ranges: dict[Any, Any], symbol: sympy.Symbol, condition: sympy.Basic) -> bool:
    """Whether the condition follows from a narrower range of the symbol; `ranges` then has it."""
    if symbol not in condition.free_symbols:
        return False
    old, hint = ranges[symbol], int(shape_env.backed_var_to_val[symbol])
    narrower = [ValueRanges(sympy.Integer(low), old.upper) for low in range(int(old.lower) + 1, hint + 1)]
    narrower += [ValueRanges(old.lower, sympy.Integer(high)) for high in (*_CEILINGS, 2 * hint, hint) if high >= hint]
    for new in narrower:
        if _follows(condition, {**ranges, symbol: new}):
            ranges[symbol] = new
            return True
    return False


def starts_at_two(inputs: Sequence[torch.Tensor], checks: Sequence[ShapeCheck | ShapeEqual]) -> bool:
    """Whether some size must be at least 2 for no other reason than that export takes 1 for special."""
    shape_env = _shape_env(inputs)
    if shape_env is None or not any(isinstance(check, ShapeCheck) and check.low == 2 for check in checks):
        return False
    ranges = {
        symbol: ValueRanges(sympy.Integer(1), found.upper) if found.lower == 2 else found
        for symbol, found in shape_env.var_to_range.items()
    }
    return unmet(shape_env, ranges) is None
