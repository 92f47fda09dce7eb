"""Looks at a saved contract's padding before it is believed: whether a model leaves padding out is decided by weights,
buffers and what else no fingerprint tells, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from torchpool.contract.contract import Contract, OutputSpec
from torchpool.contract.probe.perturb import Layout, Leaves, cut, pad_right
from torchpool.contract.probe.ragged import shorter
from torchpool.contract.probe.run import Outcome, Runner, Unsafe, largest, worst
from torchpool.contract.probe.state import ModuleState
from torchpool.contract.reach import Reach
from torchpool.contract.refusal import brief

_MORE = 3  # entries that a call of one entry is padded by


def padding_fails(
    run: Callable[[Leaves], Any],
    contract: Contract,
    call: Sequence[torch.Tensor],
    *,
    module: nn.Module | None,
    reach: Callable[[], Reach] | None = None,
    max_seconds: float = 20.0,
    max_bytes: int = 1 << 30,
) -> str | None:
    """Why the model of `run` does not pad as the contract says, in words; None where it does on this call.

    The call and shorter ones cut from it are run, then each of these beside the call, padded to its lengths. What that
    changes of `module` is put back. Raises what the model raises on the call itself.
    """
    sample = [leaf.detach() for leaf in call]
    state = ModuleState(module, reach)
    runner = Runner(run, [spec.name for spec in contract.inputs], state, [sample], max_seconds, max_bytes)
    try:
        own = runner(sample)
        return _Recheck(runner, contract, sample, own).failure()
    except Unsafe as unsafe:
        return unsafe.reason
    finally:
        state.restore()


class _Recheck:
    """Of one call."""

    def __init__(self, runner: Runner, contract: Contract, sample: Leaves, own: Outcome) -> None:
        self.runner, self.contract, self.sample, self.own = runner, contract, sample, own
        inputs = contract.inputs
        self.layout = Layout(tuple(spec.batch_dim for spec in inputs), any(spec.stacked for spec in inputs))
        self.places = [
            (i, dim, size)
            for i, spec in enumerate(inputs)
            for dim, size in enumerate(spec.sizes)
            if isinstance(size, str) and size in contract.padded
        ]
        self.values = {i: spec.pad for i, spec in enumerate(inputs) if spec.pad is not None}
        self.lengths = {symbol: sample[i].shape[dim] for i, dim, symbol in self.places}

    def failure(self) -> str | None:
        """What went wrong, in words."""
        tried = 0
        for short, own, full in self._shorter():
            tried += 1
            padded = pad_right(short, self.places, full, self.values)
            others = [self.sample] if full == self.lengths else []
            try:
                together = self.runner(self.layout.join([*others, padded]) if others or self.layout.stacked else padded)
            except Unsafe:
                raise
            except Exception as error:
                return f"the model raises for calls that are padded ({brief(error)})"
            failure = self._differs(own, together, short, rows_before=self.layout.rows(self.sample) if others else 0)
            if failure is not None:
                return failure
        return None if tried else "this call shows nothing of padding"

    def _shorter(self) -> list[tuple[Leaves, Outcome, dict[str, int]]]:
        """Calls to pad, with what they give by themselves and the lengths to pad to."""
        found: list[tuple[Leaves, Outcome, dict[str, int]]] = []
        longest = max(self.lengths.values())
        for length in shorter(longest) if longest > 1 else ():
            lengths = {symbol: max(1, n - (longest - length)) for symbol, n in self.lengths.items()}
            piece = cut(self.sample, self.places, lengths)
            try:
                found.append((piece, self.runner(piece), self.lengths))
            except Unsafe:
                raise
            except Exception:
                continue
        if not found:
            found.append((self.sample, self.own, {symbol: n + _MORE for symbol, n in self.lengths.items()}))
        return found

    def _differs(self, own: Outcome, together: Outcome, short: Leaves, rows_before: int) -> str | None:
        if own.spec != together.spec:
            return "padding changes the structure of the results"
        lengths = {symbol: short[i].shape[dim] for i, dim, symbol in self.places}
        for spec, alone, merged in zip(self.contract.outputs, own.leaves, together.leaves, strict=True):
            try:
                got = _part(merged, spec, rows_before, self.layout.rows(short), lengths)
            except RuntimeError:  # of the sizes
                return f"padding changes the size of output {spec.name!r}"
            gap = worst(got, alone)
            if gap and gap > self.runner.bound(alone.dtype) * largest(alone):
                return f"padding changes output {spec.name!r} by {gap:.3g}"
        return None


def _part(merged: torch.Tensor, spec: OutputSpec, before: int, rows: int, lengths: Mapping[str, int]) -> torch.Tensor:
    """Of a batch's output what the call gets that has the last `rows` rows, `before` others before them."""
    dim = spec.batch_dim
    folded = dim is not None and (spec.outer, spec.inner) != (1, 1)
    if dim is not None and folded:
        left = merged.shape[dim] // (before + rows)
        outer = spec.outer or left // (spec.inner or 1)
        fold = (outer, before + rows, spec.inner or left // outer)
        merged = merged.reshape(*merged.shape[:dim], *fold, *merged.shape[dim + 1 :])
    for trim in spec.trims:
        at = trim.dim
        if dim is not None and folded:  # what is left of a fold is cut; dims behind it lie two further on
            at += 2 if trim.dim > dim or (trim.dim == dim and spec.inner is None) else 0
        own = trim.scale * lengths[trim.symbol] + trim.offset
        merged = merged.narrow(at, 0, min(own, merged.shape[at]))
    if spec.stacked:
        return merged.select(0, before)
    if dim is None:
        return merged
    if folded:
        return merged.narrow(dim + 1, before, rows).flatten(dim, dim + 2)
    return merged.narrow(dim, before, rows)
