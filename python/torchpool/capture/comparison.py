"""Compares a captured graph with the module itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from torchpool import _core
from torchpool.capture import storage
from torchpool.contract import (
    Contract,
    Leaves,
    ProofSample,
    ShapeCheck,
    ShapeEqual,
    allows,
    joined,
    lengths_of,
    part_of,
    taken,
    varied,
    with_lengths,
    with_rows,
)

# Of the largest value of an output. The first is the bound of a predictor's results in fp32; rounding to the 8 bits of
# bfloat16 at each of some 20 layers stays well within the second.
_TOLERANCE = 1e-5
_TOLERANCES = {torch.bfloat16: 5e-2, torch.float16: 5e-3}


@dataclass(frozen=True)
class Tolerance:
    """How far the two forms of a graph may be from the module, as parts of the largest value of an output."""

    packed: float
    plain: float

    @staticmethod
    def of(dtype: torch.dtype | None, weights: str | None) -> Tolerance:
        """Of graphs that compute in `dtype` (None: the module's own); or in fp32, with such weights in the packed form
        only."""
        if weights is not None:
            return Tolerance(storage.TOLERANCES[weights], _TOLERANCE)
        both = _TOLERANCE if dtype is None else _TOLERANCES.get(dtype, _TOLERANCE)
        return Tolerance(both, both)


@dataclass
class Difference:
    """How far a graph's outputs are from the module's, as parts of the largest value of each output."""

    largest: float = 0.0
    total: float = 0.0
    values: int = 0
    squares: float = 0.0
    expected_squares: float = 0.0

    @property
    def root_mean_square(self) -> float:
        """As a part of the outputs' own."""
        return math.sqrt(self.squares / self.expected_squares) if self.expected_squares else 0.0

    @property
    def mean(self) -> float:
        return self.total / max(self.values, 1)

    def add(self, ours: torch.Tensor, reference: torch.Tensor, tolerance: float) -> str | None:
        """Counts an output in; says what is wrong with it, if anything is."""
        if ours.shape != reference.shape or ours.dtype != reference.dtype:
            return (
                f"has shape {tuple(ours.shape)} and {ours.dtype}, "
                f"the module gives {tuple(reference.shape)} and {reference.dtype}"
            )
        if not reference.is_floating_point():
            return None if torch.equal(ours, reference) else "differs"
        special = ~torch.isfinite(reference)
        if not torch.equal(ours[special].nan_to_num(), reference[special].nan_to_num()):
            return "differs where it is not finite"
        found, wanted = ours[~special].double(), reference[~special].double()
        if not found.numel():
            return None
        scale = float(wanted.abs().max()) or 1.0
        off = (found - wanted).abs() / scale
        self.largest = max(self.largest, float(off.max()))
        self.total += float(off.sum())
        self.values += off.numel()
        self.squares += float((found - wanted).square().sum())
        self.expected_squares += float(wanted.square().sum())
        return None if float(off.max()) <= tolerance else f"is off by {float(off.max()):.1e} of its largest value"


def _added(
    difference: Difference, plain: bool, ours: torch.Tensor, reference: torch.Tensor, tolerance: Tolerance
) -> str | None:
    if plain:
        return Difference().add(ours, reference, tolerance.plain)
    return difference.add(ours, reference, tolerance.packed)


def compare(
    backend: _core.GraphBackend,
    samples: Sequence[ProofSample],
    tolerance: Tolerance,
) -> tuple[Difference, str | None]:
    """The differences over all samples with packed weights; and the first that is too large, with these or without, in
    words."""
    difference = Difference()
    for sample in samples:
        for plain in (True, False):
            try:
                found = backend.run(sample.leaves, plain=plain)
            except Exception as error:
                return difference, f"it fails with {sample.label}: {error}"
            if len(found) != (count := len(sample.expected)):
                return difference, f"it gives {len(found)} tensors with {sample.label}, the module {count}"
            for index, (ours, reference) in enumerate(zip(found, sample.expected, strict=True)):
                wrong = _added(difference, plain, ours, reference, tolerance)
                if wrong is not None:
                    return difference, f"with {sample.label}, output {index} {wrong}"
    return difference, None


# One call, and three numbers of them that no lifted graph was traced at: tracing may have fixed the number in silence.
_CALLS = (1, 2, 4, 6)


def compare_calls(
    backend: _core.GraphBackend,
    eager: Callable[[Leaves], Leaves],
    samples: Sequence[Leaves],
    contract: Contract,
    checks: Sequence[ShapeCheck | ShapeEqual],
    tolerance: Tolerance,
) -> tuple[Difference, str | None]:
    """As `compare`, for a graph in which calls do not meet though their rows do: eager runs each call alone."""
    difference = Difference()
    rows = contract.call_rows or 1
    others = [one for one in samples[1:] if lengths_of(one, contract) != lengths_of(samples[0], contract)][:1]
    shorter = {symbol: max(1, length - 3) for symbol, length in lengths_of(samples[0], contract).items()}
    if shorter and not others and allows(checks, cut := with_lengths(samples[0], contract, shorter.get)):
        others = [cut]
    for sample, count in [(samples[0], count) for count in _CALLS] + [(other, 3) for other in others]:
        calls = [varied(with_rows(sample, contract, rows), contract, k) for k in range(count)]
        if sample is not samples[0] and taken(eager, calls[0]) is None:
            continue
        expected = [eager([leaf.clone() for leaf in call]) for call in calls]
        for plain in (True, False):
            try:
                found = backend.run(joined(calls, contract), plain=plain)
            except Exception as error:
                return difference, f"it fails with {count} calls: {error}"
            for number in range(count):
                if len(found) != len(expected[number]):
                    return difference, f"it gives {len(found)} tensors for a call, the module {len(expected[number])}"
                for index, reference in enumerate(expected[number]):
                    ours = part_of(found[index], contract.outputs[index], number, count)
                    wrong = _added(difference, plain, ours, reference, tolerance)
                    if wrong is not None:
                        return difference, f"call {number} of {count}: output {index} {wrong}"
    return difference, None
