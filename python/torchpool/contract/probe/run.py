"""Runs the model for the probe, and records results, time, shared memory, changed inputs and checks."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchpool.call import one_intra_op_thread
from torchpool.call.tree import TreeSpec, flatten
from torchpool.contract.contract import Check
from torchpool.contract.probe.generators import Others, put_torch_back, torch_moved, torch_state
from torchpool.contract.probe.state import ModuleState, storage_of
from torchpool.contract.probe.watch import Watch

Leaves = list[torch.Tensor]

# Largest |difference| over largest |reference| at which two results count as the same.
TOLERANCE = {
    torch.float64: 1e-12, torch.complex128: 1e-12, torch.float32: 1e-5, torch.complex64: 1e-5,
    torch.float16: 2e-3, torch.bfloat16: 2e-2,
}  # fmt: skip
_KEPT_OUTCOMES = 4
_TO_GAIN = 1.2  # how much faster all intra-op threads must be than one of them
_SLOW_SECONDS = 0.02  # a model that takes longer for a call is probed with fewer rows


class Unsafe(Exception):
    """Merging failed a check. `reason` is for the user; a larger `stage`: more had passed before."""

    def __init__(self, check: str, reason: str, *, stage: int = 0, serial: bool = False) -> None:
        super().__init__(reason)
        self.check, self.reason, self.stage, self.serial = check, reason, stage, serial


class BatchRaises(Unsafe):
    """The model raises for a batch."""


class OutOfTime(Unsafe):
    """The time given for probing is over."""


@dataclass
class Outcome:
    """One run: copies of the output's tensors, the structure around them, and the seconds it took."""

    leaves: Leaves
    spec: TreeSpec
    seconds: float


class Runner:
    """Calls the model on copies of its inputs, in no_grad mode, until `max_seconds` after its creation."""

    def __init__(
        self,
        run: Callable[[list[torch.Tensor]], Any],
        names: Sequence[str],
        state: ModuleState,
        samples: Sequence[Leaves],
        max_seconds: float,
        max_bytes: int,
    ) -> None:
        self.names, self.state, self.max_seconds, self.max_bytes = tuple(names), state, max_seconds, max_bytes
        self.checks: list[Check] = []
        self.aliases = False
        self.runs = 0
        self.ended = False
        """Whether a run has come to its end, or was stopped."""
        self.bytes_per_run = 0
        self.slow = False
        self._run = run
        self._state = state
        self._started = time.perf_counter()
        self._one_thread = False
        self._all_threads = 0.0
        self._previous: tuple[Leaves, Leaves] | None = None
        self._kept: deque[tuple[Leaves, Outcome]] = deque(maxlen=_KEPT_OUTCOMES)
        self._watched: set[tuple[torch.Size, ...]] = set()
        self._watch_all = False
        tensors = [tensor for _, tensor in state.tensors()]
        self._owned = {storage_of(tensor) for tensor in tensors} - {0}
        used = {t.dtype for t in [*tensors, *(leaf for call in samples for leaf in call)]}
        self._input_tolerance = max((TOLERANCE.get(dtype, 0.0) for dtype in used), default=0.0)

    def record(self, name: str, passed: bool, detail: str) -> None:
        """Adds a check to the contract."""
        self.checks.append(Check(name, passed, detail))

    @property
    def seconds_left(self) -> float:
        """Until probing must end."""
        return self.max_seconds - (time.perf_counter() - self._started)

    def bound(self, dtype: torch.dtype) -> float:
        """The bound for outputs of `dtype`: of inputs and parameters where coarser; 0 for integers."""
        if not (dtype.is_floating_point or dtype.is_complex):
            return 0.0
        return max(TOLERANCE.get(dtype, 0.0), self._input_tolerance)

    def __call__(self, leaves: Leaves, *, last: bool = False) -> Outcome:
        """Runs the model. Exceptions of the model come through; Unsafe when it writes where it must not, or draws.

        The `last` runs, which look for state, are made even where optional ones have used up the time.
        """
        if self.runs and self.seconds_left <= 0 and not last:
            raise OutOfTime("time", f"probing did not end within {self.max_seconds:.3g} s ({self.runs} runs made)")
        # Watching takes 5 to 8 us an operator, so that not every run is watched. Those of sizes that are new are, since
        # sizes decide what a model does. A run that is not stays without consequence: if a generator or a tensor of the
        # module has moved meanwhile, which others may have done, the same run is made once more, and watched.
        sizes = tuple(leaf.shape for leaf in leaves)
        if self._watch_all or self._state.written or sizes not in self._watched:
            self._watched.add(sizes)
            try:
                return self._run_once(leaves, watched=True)
            except Unsafe:
                raise
            except Exception:
                if self.runs > 1 and self._state.written:
                    raise  # what it writes would not be seen
                # Once more, as the model alone raises it: on its way through the watch a script's error loses its text.
                self._state.restore()
                return self._run_once(leaves, watched=False)
        generators, versions, others = torch_state(), self._state.versions(), Others()
        outcome = self._run_once(leaves, watched=False)
        drew = torch_moved(generators)
        if drew and others.rested():
            put_torch_back(generators)
        if drew or self._state.versions() != versions:
            self._watch_all = True
            self._run_once(leaves, watched=True)
        return outcome

    def _run_once(self, leaves: Leaves, *, watched: bool) -> Outcome:
        self.runs += 1
        watch = self._state.watch() if watched else None
        with torch.inference_mode(False), torch.no_grad():
            inputs = [leaf.detach().clone() for leaf in leaves]
            versions = [leaf._version for leaf in inputs]
            self._state.begin_run()
            start, used = time.perf_counter(), time.thread_time()
            try:
                with (
                    watch or contextlib.nullcontext(),
                    one_intra_op_thread() if self._one_thread else contextlib.nullcontext(),
                ):
                    result = self._run(list(inputs))
            except BaseException as raised:
                self.ended |= watch is not None and watch.stopped
                if watch is not None and (stopped := self._stopped(watch)) is not None:
                    raise stopped from None
                if isinstance(raised, SystemExit) and self.runs > 1:
                    # Of values that no caller gave: it must end nobody's program.
                    raise RuntimeError(f"the model raised {raised!r}") from raised
                raise
            finally:
                self._state.note_run()
            self.ended = True
            seconds, used = time.perf_counter() - start, time.thread_time() - used
            if watch is not None and (stopped := self._stopped(watch)) is not None:  # the model caught what ended it
                raise stopped
            if self.runs == 1:
                self._state.keep_set_up()
            self._choose_threads(seconds, used)
            self.slow |= self.runs > 1 and seconds > _SLOW_SECONDS
            found, spec = flatten(result)
            found = [leaf.detach() for leaf in found]
            self._check_inputs(leaves, inputs, versions)
            self._check_memory(inputs, found)
            copies = [leaf.clone() for leaf in found]
            self._previous = (found, copies)
        moved = sum(leaf.numel() * leaf.element_size() for leaf in (*inputs, *found))
        self.bytes_per_run = max(self.bytes_per_run, moved)
        outcome = Outcome(copies, spec, seconds)
        self._kept.appendleft((leaves, outcome))
        return outcome

    def _choose_threads(self, seconds: float, used: float) -> None:
        """The first run sets up, the second has all intra-op threads and the third has one, whose processor time tells
        what it would take on a machine that is busy no longer."""
        if self.runs == 2:
            self._all_threads, self._one_thread = seconds, True
        elif self.runs == 3:
            self._one_thread = used <= _TO_GAIN * self._all_threads

    def again(self, leaves: Leaves) -> Outcome:
        """What an earlier run gave for these values, or a run: that the model repeats itself is a check of its own."""
        for known, outcome in self._kept:
            if all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(known, leaves, strict=True)):
                return outcome
        return self(leaves)

    def _stopped(self, watch: Watch) -> Unsafe | None:
        """Why the watch has ended the run, before anything was drawn or counted: a number that is drawn is gone for all
        threads, since they share the generator, and a training loop may use the module, too."""
        if watch.drew is not None:
            what = f"model draws random numbers ({watch.drew} was about to run in run {self.runs})"
            return Unsafe("random numbers", what, serial=True)
        if watch.counts is not None:
            return Unsafe("state unchanged", f"model is stateful: {watch.counts} counts each call", serial=True)
        return None

    def _check_inputs(self, before: Leaves, after: Leaves, versions: list[int]) -> None:
        for name, old, new, version in zip(self.names, before, after, versions, strict=True):
            if new._version == version and (self.runs > 2 or worst(new, old.detach()) == 0):
                continue
            size = worst(new, old.detach())
            self.record("inputs unchanged", False, f"{name} changes by {size:.3g}")
            raise Unsafe("inputs unchanged", f"input {name!r} is changed in place by the model (by {size:.3g})")

    def _check_memory(self, inputs: Leaves, outputs: Leaves) -> None:
        if self._previous is not None:
            for now, then in zip(*self._previous, strict=True):
                change = worst(now, then)
                if change:
                    self.aliases = True  # wherever it keeps them
                    self.record("results stay", False, f"an earlier result changed by {change:.3g} in the next run")
                    raise Unsafe(
                        "results stay",
                        f"model is stateful: it writes over its earlier results (changed by {change:.3g})",
                        serial=True,
                    )
        places = [storage_of(leaf) for leaf in outputs if leaf.numel()]
        earlier = {storage_of(leaf) for leaf in self._previous[0]} if self._previous else set()
        taken = (self._owned | earlier | {storage_of(leaf) for leaf in inputs}) - {0}
        self.aliases |= len(set(places)) < len(places) or not taken.isdisjoint(places)


def worst(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest |got - expected|; NaN equals NaN; inf where shape, dtype or finiteness differ."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return float("inf")
    if got.layout == expected.layout == torch.strided and torch.equal(got, expected):
        return 0.0
    if got.numel() == 0:
        return 0.0
    if got.layout != torch.strided:
        got, expected = got.to_dense(), expected.to_dense()
    if got.is_quantized:
        got, expected = got.dequantize(), expected.dequantize()
    wide = torch.complex128 if got.is_complex() else torch.float64
    gap = (got.to(wide) - expected.to(wide)).abs()
    gap[(got == expected) | ((got != got) & (expected != expected))] = 0.0
    return float(torch.nan_to_num(gap, nan=float("inf")).max())


def largest(tensor: torch.Tensor) -> float:
    """The largest finite |value|; 0 when there is none."""
    if tensor.numel() == 0 or tensor.dtype == torch.bool:
        return 0.0
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    values = tensor.abs().to(torch.float64)
    return float(torch.where(values.isfinite(), values, 0.0).max())


def gap_between(one: Outcome, other: Outcome, runner: Runner | None) -> tuple[float, str]:
    """How far two results of a call are apart, and in which output; 0 within `runner`'s bounds (if given)."""
    if one.spec != other.spec:
        for (name, a), (_, b) in zip(one.spec.constants(), other.spec.constants(), strict=False):
            if isinstance(a, int | float) and isinstance(b, int | float) and a != b:
                return abs(float(a) - float(b)), name
        return (0.0, "") if one.spec.opaque() else (float("inf"), "structure")
    most = (0.0, "")
    for a, b, name in zip(one.leaves, other.leaves, one.spec.leaf_names, strict=True):
        gap = worst(b, a)
        if gap and (runner is None or gap > runner.bound(a.dtype) * largest(a)):
            most = max(most, (gap, name))
    return most
