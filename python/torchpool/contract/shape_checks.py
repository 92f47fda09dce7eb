"""The sizes that a captured program takes, and the batches that prove it right.

Inputs here belong to a merged batch: where the contract stacks calls, dim 0 is the new dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from torchpool.contract.contract import Contract, InputSpec, OutputSpec

Leaves = list[torch.Tensor]

_PROOF_ROWS = (1, 5)


@dataclass(frozen=True)
class ShapeCheck:
    """An input's size along `dim` must be at least `low` and at most `high` (None: any)."""

    input: int
    dim: int
    low: int
    high: int | None

    def text(self, names: Sequence[str]) -> str:
        """The check, readable, with these names of inputs."""
        most = "" if self.high is None else f" <= {self.high}"
        return f"{self.low} <= {names[self.input]}.shape[{self.dim}]{most}"


@dataclass(frozen=True)
class ShapeEqual:
    """Two sizes of the inputs must be the same."""

    input_a: int
    dim_a: int
    input_b: int
    dim_b: int

    def text(self, names: Sequence[str]) -> str:
        """The check, readable, with these names of inputs."""
        return f"{names[self.input_a]}.shape[{self.dim_a}] == {names[self.input_b]}.shape[{self.dim_b}]"


class ProofSample(NamedTuple):
    """Inputs for which a program must give what eager gives."""

    label: str
    leaves: Leaves
    expected: Leaves
    """What eager gives for them."""
    beyond: bool
    """The checks refuse it, as export takes size 1 for special: where it agrees, `from_one` may widen them."""


def with_rows(sample: Sequence[torch.Tensor], contract: Contract, rows: int) -> Leaves:
    """A batch of that many rows, which repeat the sample's."""

    def repeat(leaf: torch.Tensor, spec: InputSpec) -> torch.Tensor:
        if spec.batch_dim is None:
            return leaf.detach().clone()
        if spec.stacked:
            return torch.stack([leaf.detach()] * rows)
        return _resized(leaf.detach(), spec.batch_dim, rows)

    return [repeat(leaf, spec) for leaf, spec in zip(sample, contract.inputs, strict=True)]


def _resized(leaf: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    return leaf.index_select(dim, torch.arange(size, device=leaf.device) % leaf.shape[dim])


def varied(sample: Sequence[torch.Tensor], contract: Contract, k: int) -> Leaves:
    """The sample with the floating numbers of its rows scaled, as the k-th of several calls: each another one."""
    factor = (1.0, 0.7, 1.1, 0.45, 1.3)[k % 5]
    return [
        leaf.detach() * factor if spec.batch_dim is not None and leaf.is_floating_point() else leaf.detach()
        for leaf, spec in zip(sample, contract.inputs, strict=True)
    ]


def joined(calls: Sequence[Leaves], contract: Contract) -> Leaves:
    """One batch of calls of equal shapes."""
    merged = []
    for i, spec in enumerate(contract.inputs):
        parts = [call[i] for call in calls]
        if spec.batch_dim is None:
            merged.append(parts[0])
        else:
            merged.append(torch.stack(parts) if spec.stacked else torch.cat(parts, spec.batch_dim))
    return merged


def part_of(output: torch.Tensor, spec: OutputSpec, index: int, units: int) -> torch.Tensor:
    """What one of `units` rows (or calls, where these are the unit) gets of a batch's output."""
    if spec.batch_dim is None:
        return output
    dim, shape = spec.batch_dim, list(output.shape)
    entries = shape[dim] // units
    inner = spec.inner if spec.inner is not None else entries // (spec.outer or 1)
    apart = output.reshape(*shape[:dim], entries // inner, units, inner, *shape[dim + 1 :]).select(dim + 1, index)
    part = apart.reshape(*shape[:dim], entries, *shape[dim + 1 :])
    return part.select(dim, 0) if spec.stacked else part


def with_lengths(sample: Sequence[torch.Tensor], contract: Contract, length: Callable[[str], int | None]) -> Leaves:
    """The sample with its values repeated or cut to the lengths that `length` gives for symbols."""
    result = []
    for leaf, spec in zip(sample, contract.inputs, strict=True):
        for dim, symbol in enumerate(spec.sizes):
            wanted = length(symbol) if isinstance(symbol, str) and symbol != "batch" else None
            if wanted is not None and leaf.shape[dim]:
                leaf = _resized(leaf, dim, wanted)
        result.append(leaf)
    return result


def lengths_of(sample: Sequence[torch.Tensor], contract: Contract) -> dict[str, int]:
    """The length of each symbol; the first where inputs disagree."""
    found: dict[str, int] = {}
    for leaf, spec in zip(sample, contract.inputs, strict=True):
        for dim, symbol in enumerate(spec.sizes):
            if isinstance(symbol, str) and symbol != "batch":
                found.setdefault(symbol, leaf.shape[dim])
    return found


def from_one(checks: Sequence[ShapeCheck | ShapeEqual]) -> list[ShapeCheck | ShapeEqual]:
    """The checks with sizes of at least 2 allowed from 1, for a program that was right there."""
    return [
        ShapeCheck(check.input, check.dim, 1, check.high) if isinstance(check, ShapeCheck) and check.low == 2 else check
        for check in checks
    ]


def allows(checks: Sequence[ShapeCheck | ShapeEqual], leaves: Sequence[torch.Tensor]) -> bool:
    """Whether a program with these checks takes inputs of these sizes."""
    for check in checks:
        if isinstance(check, ShapeEqual):
            if leaves[check.input_a].shape[check.dim_a] != leaves[check.input_b].shape[check.dim_b]:
                return False
        else:
            size = leaves[check.input].shape[check.dim]
            if size < check.low or (check.high is not None and size > check.high):
                return False
    return True


def samples_for_proof(
    run: Callable[[Leaves], Leaves],
    samples: Sequence[Leaves],
    contract: Contract,
    checks: Sequence[ShapeCheck | ShapeEqual],
    *,
    widen: bool,
) -> list[ProofSample]:
    """Batches to compare a program with eager on: 1 and 5 rows, and another length and length 1 where lengths may vary.

    `run` is eager on merged inputs: lengths that it refuses are left out. `widen`: whether the checks may be widened
    to length 1.
    """
    sample = samples[0]
    if contract.mode != "merge":
        return [ProofSample("the sample", [leaf.detach().clone() for leaf in sample], _run(run, sample), False)]
    found = []
    for rows in _PROOF_ROWS:
        if allows(checks, same := with_rows(sample, contract, rows)):
            leaves = _different(same, contract, rows)
            expected = taken(run, leaves)
            if expected is None:
                leaves, expected = same, _run(run, same)
            found.append(ProofSample(f"{rows} rows", leaves, expected, False))
    lengths = lengths_of(sample, contract)
    if not lengths:
        return found
    others: list[tuple[str, Leaves]] = [
        (f"lengths {lengths_of(one, contract)}", one)
        for one in samples[1:]
        if lengths_of(one, contract) != lengths
    ][:1]  # fmt: skip
    if not others:  # not longer ones: a module may change itself (a table that grows) at a length that nobody asked for
        others.append(("shorter", with_lengths(sample, contract, lambda symbol: max(1, lengths[symbol] - 3))))
    shortest = with_lengths(sample, contract, lambda symbol: 1)
    for label, one, rows in (*((*other, 1) for other in others), ("length 1", shortest, 1), ("length 1", shortest, 2)):
        leaves = with_rows(one, contract, rows)
        inside = allows(checks, leaves)
        if (inside or (widen and allows(from_one(checks), leaves))) and (expected := taken(run, leaves)) is not None:
            found.append(ProofSample(label, leaves, expected, not inside))
    return found


def _different(leaves: Leaves, contract: Contract, rows: int) -> Leaves:
    """The batch with rows that differ, which eager need not take."""
    scales = torch.tensor([(1.0, 0.7, 1.1, 0.45, 1.3)[row % 5] for row in range(rows)])
    return [
        leaf * scales.to(leaf.device, leaf.dtype).view(-1, *[1] * (leaf.dim() - 1 - spec.batch_dim))
        if spec.batch_dim is not None and leaf.is_floating_point()
        else leaf
        for leaf, spec in zip(leaves, contract.inputs, strict=True)
    ]


def taken(run: Callable[[Leaves], Leaves], leaves: Leaves) -> Leaves | None:
    """What eager gives for inputs made up here; None where it refuses them, whatever the reason."""
    try:
        return _run(run, leaves)
    except Exception:
        return None


def _run(run: Callable[[Leaves], Leaves], leaves: Sequence[torch.Tensor]) -> Leaves:
    with torch.no_grad():
        return run([leaf.detach().clone() for leaf in leaves])
