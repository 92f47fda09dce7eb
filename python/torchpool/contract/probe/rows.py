"""Finds the batch axis of every output, and proves on numbers that the rows of a batch are independent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from torchpool.contract.probe.perturb import Layout, disturb, is_number, same_leaves, vary
from torchpool.contract.probe.run import BatchRaises, Leaves, Outcome, OutOfTime, Runner, Unsafe, largest, worst
from torchpool.contract.refusal import brief

Axes = tuple[int | None, ...]
Fold = tuple[int, int]
"""How many entries of a batch axis stand before each row's own (outer), and how many are its own in a run (inner)."""
PLAIN: Fold = (1, 1)
_LEAK = "rows influence each other"
_MAX_WHOLE = 4  # sample calls of several rows that are compared as they are


@dataclass
class RowProof:
    """What was found: a batch axis per output (None: constant), the rows used and their own results."""

    axes: Axes
    folds: tuple[Fold, ...]
    """How rows are folded along these axes."""
    units: list[Leaves]
    own: list[Outcome]
    row_seconds: float


class RowProver:
    """One layout on one sample call. `prove` raises Unsafe with the first check that fails."""

    def __init__(self, runner: Runner, layout: Layout, stated: Mapping[str, int], where: str = "") -> None:
        self.runner, self.layout, self.stated, self.where = runner, layout, stated, where
        self.pool: list[Leaves] = []
        self.units: list[Leaves] = []
        self.own: list[Outcome] = []
        self.merged: dict[int, Outcome] = {}
        self.noise = 0.0
        self.axes: Axes = ()
        """Of the outputs, once two batch sizes have shown them."""
        self.folds: dict[int, list[Fold]] = {}
        """Per output those that no run has refuted yet."""
        self.varies = False
        """Whether runs have other lengths than those that the folds were found at: of a fold that is not plain one size
        is then whatever is left."""

    def prove(
        self, calls: Sequence[Leaves], sizes: Sequence[int], others: Sequence[Leaves] = (), *, leaks: bool = True
    ) -> RowProof:
        """Runs the rows of `calls` (of equal shapes but for the rows), and variations of them, merged.

        `sizes` are the batch sizes to try, ascending from 1. Whole calls are compared too, those of `others`
        among them: calls whose shared inputs hold something else. `leaks`: whether to change other rows, too.
        """
        top = sizes[-1]
        for other in calls:
            count = min(self.layout.rows(other), top)
            self.pool += [self.layout.row(other, i) for i in range(count)]
        for size in sizes:
            while len(self.units) < size:
                self._add_unit()
            if size == 1 and not self.layout.stacked:
                self.merged[1] = self.own[0]
                continue
            self.merged[size] = self._run(self.units[:size])
            if len(self.merged) > 1:
                self.axes = self._find_axes()
                self._refute_folds(size)
                self._compare(size)
        by_rows = {self.layout.rows(other): other for other in reversed([*calls, *others])}
        for rows in sorted(by_rows)[-_MAX_WHOLE:]:
            if rows > 1:
                self._compare_call(by_rows[rows], rows)
        scales = f"{self.noise:.2g} of the largest value at {', '.join(map(str, sizes))} rows"
        self.runner.record(f"merged equals separate{self.where}", True, scales)
        seconds = self._check_leaks(sizes[-1]) if leaks else self.merged[sizes[-1]].seconds
        folds = tuple(self._fold(j) for j in range(len(self.axes)))
        return RowProof(self.axes, folds, self.units, self.own, seconds / sizes[-1])

    def _fail(self, check: str, reason: str, stage: int) -> Unsafe:
        return Unsafe(check + self.where, f"{reason}{self.where}", stage=stage)

    def _add_unit(self) -> None:
        """Adds a one-row call that the model accepts, with its own result: a sample row or a variation."""
        k, rows = len(self.units), len(self.pool)
        row = self.pool[k % rows]
        tries = [row] if k < rows and not (k and same_leaves(row, self.units[0])) else []
        if not tries:
            kinds = [(True, True), (True, False), (False, True)]
            tries = [vary(self.runner.names, self.layout, row, k, *kind) for kind in kinds] + [row]
        for attempt in tries:
            try:
                own = self.runner.again(attempt) if attempt is row else self.runner(attempt)
            except Unsafe:
                raise
            except Exception as error:
                if attempt is row:
                    raise self._fail(
                        "rows", f"the model raises for one row of the sample ({brief(error)})", 0
                    ) from error
                continue
            if attempt is row or not self.own or self._as_finite(own):
                self.units.append(attempt)
                self.own.append(own)
                if own.spec != self.own[0].spec:
                    raise self._fail("structure", _structure(self.own[0], own, "differs between inputs"), 2)
                return

    def _as_finite(self, own: Outcome) -> bool:
        """NaN hides differences: a variation must bring none that the sample itself does not give."""
        pairs = zip(own.leaves, self.own[0].leaves, strict=False)
        return all(not is_number(a) or not bool(a.isnan().any()) or bool(b.isnan().any()) for a, b in pairs)

    def _run(self, units: Sequence[Leaves]) -> Outcome:
        try:
            joined = self.layout.join(units)
            merged = self.runner(joined)
        except Unsafe:
            raise
        except Exception as error:
            text = f"the model raises for a batch of {len(units)} ({brief(error)}){self.where}"
            raise BatchRaises(f"batch runs{self.where}", text, stage=1) from error
        if merged.spec != self.own[0].spec:
            raise self._fail("structure", _structure(self.own[0], merged, f"changes with a batch of {len(units)}"), 2)
        for j, axis in enumerate(self.axes):
            if axis is None:
                continue
            shape = merged.leaves[j].shape
            fold = self._fold(j) if len(shape) <= axis else self.fold_in(merged.leaves[j], j, len(units))
            entries = len(units) * math.prod(fold)
            if len(shape) <= axis or shape[axis] != entries:
                text = f"output {merged.spec.leaf_names[j]!r} has shape {list(shape)} for {len(units)} rows"
                raise self._fail("output axes", f"{text}: dim {axis} should have {entries} entries", 2)
        return merged

    def _find_axes(self) -> Axes:
        names = self.own[0].spec.leaf_names
        return tuple(self._find_axis(j, name) for j, name in enumerate(names))

    def _find_axis(self, j: int, name: str) -> int | None:
        shapes = {size: outcome.leaves[j].shape for size, outcome in self.merged.items()}
        ranks = {size: len(shape) for size, shape in shapes.items()}
        (low, first), (high, last) = min(shapes.items()), max(shapes.items())
        if len(set(ranks.values())) > 1:
            raise self._fail(
                "output axes",
                f"rank of output {name!r} depends on batch size ({len(first)} at {low}, {len(last)} at {high} rows)",
                2,
            )
        moving = [d for d in range(len(first)) if len({shape[d] for shape in shapes.values()}) > 1]
        scaling = [d for d in moving if all(shape[d] == size for size, shape in shapes.items())]
        if name in self.stated:
            wanted = self.stated[name] % max(len(first), 1)
            if wanted not in scaling:
                text = f"dim {wanted} of output {name!r} was stated as batch, but the shape is {list(last)}"
                raise self._fail("output axes", f"{text} for {high} rows", 2)
        if len(scaling) > 1:
            text = f"two axes scale with batch: dims {scaling[0]} and {scaling[1]} of output {name!r}"
            raise self._fail("output axes", f"{text} are both {high} for {high} rows", 2)
        if moving != scaling and not self._may_be_folded(j, moving, shapes):
            text = f"output {name!r} does not have one entry a row: shape {list(first)} for {low}"
            raise self._fail("output axes", f"{text}, {list(last)} for {high} rows", 2)
        return moving[0] if moving else None

    def _may_be_folded(self, j: int, moving: list[int], shapes: Mapping[int, torch.Size]) -> bool:
        """Whether one axis has the same number of entries for each row, more than one; notes the folds to try."""
        if len(moving) != 1 or self.layout.stacked:
            return False
        found = {shape[moving[0]] / size for size, shape in shapes.items()}
        entries = int(min(found))
        if len(found) > 1 or entries != max(found) or entries < 2:
            return False
        folds = [(entries, 1), (1, entries)]
        folds += [(outer, entries // outer) for outer in range(2, entries) if entries % outer == 0]
        self.folds.setdefault(j, folds)
        return True

    def _refute_folds(self, size: int) -> None:
        """Keeps the folds by which each row gets what it gives alone; the first where none does, to tell how far."""
        for j, folds in self.folds.items():
            axis, leaf = self.axes[j], self.merged[size].leaves[j]
            if axis is None or len(folds) == 1:
                continue
            self.folds[j] = [
                fold
                for fold in folds
                if all(
                    self._relative(j, worst(unfolded(leaf, axis, fold, i), self.own[i].leaves[j])) <= self.bound(j)
                    for i in range(size)
                )
            ] or folds[:1]

    def _fold(self, j: int) -> Fold:
        return self.folds[j][0] if j in self.folds else PLAIN

    def fold_in(self, leaf: torch.Tensor, j: int, rows: int) -> Fold:
        """How `rows` rows are folded in one tensor of output `j`."""
        (outer, inner), axis = self._fold(j), self.axes[j]
        if not self.varies or (outer, inner) == PLAIN or axis is None:
            return outer, inner
        left = leaf.shape[axis] // rows
        return (1, left) if outer == 1 else (left // inner, inner)

    def part(self, merged: Outcome, j: int, index: int, fold: Fold | None = None) -> torch.Tensor:
        """What row `index` of a merged run gets of output `j`; folded as the run that found it, where none is given."""
        axis, leaf = self.axes[j], merged.leaves[j]
        if axis is None:
            return leaf
        if self._fold(j) != PLAIN:
            return unfolded(leaf, axis, fold or self._fold(j), index)
        return leaf.select(axis, index) if self.layout.stacked else leaf.narrow(axis, index, 1)

    def gap(self, got: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> tuple[float, int]:
        """The largest difference relative to its output's largest value, and the output; excesses first."""
        found = [(self._relative(j, worst(a, b)), j) for j, (a, b) in enumerate(zip(got, expected, strict=True))]
        return max(found, key=lambda item: (item[0] > self.bound(item[1]), item[0]), default=(0.0, 0))

    def _relative(self, j: int, difference: float) -> float:
        if difference == 0:
            return 0.0
        scale = max(largest(own.leaves[j]) for own in self.own)
        return difference / scale if scale else difference

    def bound(self, j: int) -> float:
        """The relative difference that output `j` may show; integers must be equal."""
        return self.runner.bound(self.own[0].leaves[j].dtype)

    def _parts(self, merged: Outcome, index: int) -> list[torch.Tensor]:
        return [self.part(merged, j, index) for j in range(len(merged.leaves))]

    def _compare(self, size: int) -> None:
        merged = self.merged[size]
        for i in range(size):
            gap, j = self.gap(self._parts(merged, i), self.own[i].leaves)
            if gap > self.bound(j):
                raise self._fail("merged equals separate", self._explain(size, i, j, gap), 3)
            self.noise = max(self.noise, gap)

    def _explain(self, size: int, i: int, j: int, gap: float) -> str:
        """Tells a leak between rows from a dependence on the batch size."""
        name = self.own[0].spec.leaf_names[j]
        if self.axes[j] is None:
            text = f"{_LEAK} (output {name!r} has no batch axis"
            return f"{text} and changes by {gap:.2g} with the rows)"
        others = [
            unit if k == i else disturb(self.runner.names, self.layout, unit, 30.0, True)
            for k, unit in enumerate(self.units[:size])
        ]
        try:
            moved = self._run(others) if size > 1 else self.merged[size]
            change = self._relative(j, worst(self.part(moved, j, i), self.part(self.merged[size], j, i)))
        except OutOfTime:
            raise
        except Unsafe:
            change = 0.0
        if change > self.bound(j):
            return f"{_LEAK} (output {name!r} changes by {change:.2g} when other requests change)"
        text = f"output {name!r} depends on the batch size (a row differs by {gap:.2g} of the largest value"
        return f"{text} between {size} rows and its own call, bound {self.bound(j):.0e})"

    def _compare_call(self, call: Leaves, rows: int) -> None:
        """A sample of several rows: its first and last row are what these rows give alone."""
        whole = self.runner(call)
        if whole.spec != self.own[0].spec:
            raise self._fail("structure", _structure(self.own[0], whole, f"changes with a batch of {rows}"), 2)
        alone = {index: self.runner(self.layout.row(call, index)) for index in (0, rows - 1)}
        for j, (axis, leaf) in enumerate(zip(self.axes, whole.leaves, strict=True)):
            if axis is not None and (leaf.ndim <= axis or leaf.shape[axis] != rows * math.prod(self._fold(j))):
                name = whole.spec.leaf_names[j]
                text = f"output {name!r} has shape {list(leaf.shape)} for {rows} rows"
                raise self._fail("output axes", f"{text}: dim {axis} is not the batch", 2)
        for index, own in alone.items():
            gap, j = self.gap(self._parts(whole, index), own.leaves)
            if gap > self.bound(j):
                name = whole.spec.leaf_names[j]
                text = f"{_LEAK} (output {name!r} changes by {gap:.2g} when other requests change:"
                raise self._fail("merged equals separate", f"{text} row {index} of {rows})", 3)

    def _check_leaks(self, size: int) -> float:
        """Changes other rows, little and much: each row must stay as it was. Returns the fastest seconds."""
        inner = set(range(1, size - 1)) or {1}
        numbers = any(
            is_number(self.units[0][i]) and "mask" not in self.runner.names[i].lower() for i in self.layout.batched
        )
        # A sign that flips shows branches such as `if x.sum() > 0`; NaN shows 0 * x.
        outer = (set(range(size)) - inner, -1000.0)
        plans = [(inner, 30.0), (inner, 1000.0), outer, (inner, math.nan)] if numbers else [(inner, 1.0), outer]
        moved: dict[str, float] = {}
        base, best = self.merged[size], self.merged[size].seconds
        for changed, factor in plans:
            run = self._run_changed(changed, size, factor)
            if run is None:
                continue
            best = min(best, run.seconds)
            for i in sorted(set(range(size)) - changed):
                gap, j = self.gap(self._parts(run, i), self._parts(base, i))
                label = f"x{factor:g}" if numbers else "permuted"
                moved[label] = max(moved.get(label, 0.0), gap)
                # Growing with the change means a leak, even where it is still small.
                floor = 4 * torch.finfo(self.own[0].leaves[j].dtype).eps if is_number(self.own[0].leaves[j]) else 0.0
                grown = factor != 30.0 and gap > 2 * moved.get("x30", 0.0) + floor if numbers else False
                if gap > self.bound(j) or grown:
                    name = self.own[0].spec.leaf_names[j]
                    detail = f"{_LEAK} (output {name!r} changes by {gap:.2g} when other requests change: {label})"
                    raise self._fail("other rows changed", detail, 4)
        if not moved:
            text = "the rows of the sample could not be varied, so nothing shows that they are independent"
            raise self._fail("variation", f"{text} (0 changes ran): give several different calls as example", 3)
        detail = ", ".join(f"{label}: {gap:.2g}" for label, gap in moved.items())
        self.runner.record(f"other rows changed{self.where}", True, f"a row moves by ({detail}) of the largest value")
        return best

    def _run_changed(self, changed: set[int], size: int, factor: float) -> Outcome | None:
        """The merged run with some rows changed; None where the model takes no such rows, not even alone."""
        units = self.units[:size]
        names, layout = self.runner.names, self.layout
        ways = [
            {i: disturb(names, layout, units[i], factor, True) for i in changed},
            {i: disturb(names, layout, units[i], factor, False) for i in changed},
        ]
        if not math.isnan(factor):
            ways.append({i: units[(i + int(factor)) % size] for i in changed})
        for way in ways:
            if all(same_leaves(way[i], units[i]) for i in changed):
                continue
            try:
                return self._run([way.get(i, units[i]) for i in range(size)])
            except BatchRaises:
                if self._raises_alone(way.values()):
                    continue
                raise
        return None

    def _raises_alone(self, units: object) -> bool:
        for unit in units:  # type: ignore[attr-defined]
            try:
                self.runner(unit)
            except Unsafe:
                raise
            except Exception:
                return True
        return False


def unfolded(leaf: torch.Tensor, axis: int, fold: Fold, index: int) -> torch.Tensor:
    """The entries of row `index` along an axis that folds rows."""
    outer, inner = fold
    shape = list(leaf.shape)
    apart = leaf.reshape(*shape[:axis], outer, -1, inner, *shape[axis + 1 :]).select(axis + 1, index)
    return apart.reshape(*shape[:axis], outer * inner, *shape[axis + 1 :])


def _structure(one: Outcome, other: Outcome, how: str) -> str:
    for (name, a), (twin, b) in zip(one.spec.constants(), other.spec.constants(), strict=False):
        if name == twin and a is not b and (type(a) is not type(b) or a != b):
            return f"output {name!r} is a {type(a).__name__}, no tensor, and {how} (from {a!r:.40} to {b!r:.40})"
    return f"the structure of the output {how} ({one.spec.num_leaves} and {other.spec.num_leaves} tensors)"
