"""Finds out, by running a model on samples and looking at numbers, how its calls might share a batch.

Numbers refute: a layout in which merged rows differ from separate ones, or move when other rows change, cannot be
right. That rows are independent they cannot show, since a model may let its values decide: that is proven on the graph.
Calls that fail a check run alone, and the contract says which check failed and by how much.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchpool.call.tree import TreeSpec
from torchpool.contract.contract import Contract, InputSpec, OutputSpec, Reason
from torchpool.contract.probe.elsewhere import Elsewhere
from torchpool.contract.probe.generators import PlainGenerators
from torchpool.contract.probe.layout import layouts
from torchpool.contract.probe.lengths import LengthFinder, prove_at_length
from torchpool.contract.probe.perturb import Layout, Leaves
from torchpool.contract.probe.ragged import Number, Ragged, find_ragged
from torchpool.contract.probe.rows import Fold, RowProof
from torchpool.contract.probe.run import Outcome, OutOfTime, Runner, Unsafe, gap_between
from torchpool.contract.probe.state import ModuleState
from torchpool.contract.reach import THREAD_STATE, Reach

_LOG = logging.getLogger("torchpool")
_NOT_THE_MODE = ("time", "memory", "outputs", "inputs", "layout", "variation")  # what eval() would not mend
_OTHER_THREAD = "another thread"
_MAX_LENGTHS = 6  # sample lengths at which rows are proven independent


@dataclass(frozen=True)
class Found:
    """What numbers say of a model's calls."""

    contract: Contract
    """Of mode "merge" where no number speaks against it."""
    candidate: Contract | None
    """Of mode "merge": what is worth a proof on the graph, also where the contract is of mode "alone", since the graph
    may be lifted. It says nothing of outputs then. None where calls must run alone in any case."""
    spec: TreeSpec | None
    """Of the results; None where the model was not run."""


def probe(*args: Any, **options: Any) -> Contract:
    """As `find`: the contract alone."""
    return find(*args, **options).contract


def find(
    run: Callable[[list[torch.Tensor]], Any],
    calls: Sequence[Sequence[torch.Tensor]],
    names: Sequence[str],
    *,
    module: nn.Module | None = None,
    pad: Mapping[str, Number] | None = None,
    batch: Mapping[str, int | None] | None = None,
    reach: Callable[[], Reach] | None = None,
    threads: bool = True,
    max_seconds: float = 20.0,
    max_bytes: int = 1 << 30,
    proof_follows: bool = False,
    blame_mode: bool = True,
) -> Found:
    """The batching contract of a model, as far as numbers tell.

    `run` calls the model eagerly on the tensors of one call and returns its raw output. `calls` holds one or
    more sample calls of equal structure, each a list of tensors named by `names`; dims that differ between
    them vary. `module` is watched for state and train mode; what the runs change of it is put back, and what
    others change meanwhile is left alone. No run draws from torch's generators. `proof_follows`: nothing is merged
    by what is found before a graph has proven it, so that rows are tried less often. `pad` states values for
    right-padding, `batch` the batch dim of inputs or outputs by name (None: shared). `reach` finds the code that
    the runs may run, by default that of the module; `threads` allows one run on another thread. About
    `max_seconds` and `max_bytes` of tensors are spent at most. `blame_mode`: whether train mode may be why a check
    fails.

    Raises what the model raises on a sample; ValueError for samples that do not match, unknown names, and a
    `batch` that the proof contradicts. A model in train mode that fails a check gives a contract whose
    `refused` is true.
    """
    pad, batch = dict(pad or {}), dict(batch or {})
    samples = [[leaf.detach() for leaf in call] for call in calls]
    _check_arguments(samples, names, pad)
    state = ModuleState(module, reach)
    runner = Runner(run, names, state, samples, max_seconds, max_bytes)
    try:
        found = _Probe(runner, samples, pad, batch, threads, proof_follows, blame_mode).find()
    except BaseException:
        # A first run that raises was the call itself: what it wrote stays, or who raises once would do so for ever.
        if runner.ended:
            state.restore()
        raise
    state.restore()
    used = max_seconds - runner.seconds_left
    contract = found.contract
    what = "may merge" if contract.mode == "merge" else f"runs alone: {contract.reason}"
    _LOG.info("probed in %.3f s (%d runs): %s", used, runner.runs, what)
    return found


def _check_arguments(samples: list[Leaves], names: Sequence[str], pad: Mapping[str, Number]) -> None:
    if not samples:
        raise ValueError("probe needs at least one sample call")
    for number, call in enumerate(samples):
        if len(call) != len(names):
            raise ValueError(f"sample call {number} has {len(call)} tensors, names has {len(names)}")
        for name, leaf, first in zip(names, call, samples[0], strict=True):
            if (leaf.dtype, leaf.ndim, leaf.device) != (first.dtype, first.ndim, first.device):
                raise ValueError(
                    f"input {name!r} of call {number}: {leaf.dtype} with {leaf.ndim} dims on {leaf.device}, "
                    f"in the first call {first.dtype} with {first.ndim} dims on {first.device}"
                )
    unknown = sorted(set(pad) - set(names))
    if unknown:
        raise ValueError(f"pad= names no input of the model: {unknown} (inputs: {list(names)})")


def _fold_of(fold: Fold) -> tuple[int | None, int | None]:
    """For an OutputSpec. A time that is folded in may vary: only one of the two is told, the other is what is left."""
    outer, inner = fold
    return (1, None) if outer == 1 and inner > 1 else (None if outer > 1 else 1, inner)


class _Probe:
    """One probing: from sample calls to a contract."""

    def __init__(
        self,
        runner: Runner,
        samples: list[Leaves],
        pad: dict[str, Number],
        batch: dict[str, int | None],
        threads: bool,
        proof_follows: bool,
        blame_mode: bool,
    ) -> None:
        self.runner, self.samples, self.pad, self.batch = runner, samples, pad, batch
        self.proof_follows, self.blame_mode = proof_follows, blame_mode
        self.first: Outcome | None = None
        self.again: Outcome | None = None
        self.elsewhere = Elsewhere(runner, threads)
        self.stated_outputs: dict[str, int] = {}
        self.refuted: Layout | None = None
        """The likeliest layout by which the model runs, if numbers refute them all."""

    def find(self) -> Found:
        try:
            contract = self._merging()
            return Found(contract, contract, self.first.spec if self.first else None)
        except Unsafe as failure:
            # Failed layouts that came before another one was proven leave no failed check behind.
            if not self.runner.checks or self.runner.checks[-1].passed:
                self.runner.record(failure.check, False, failure.reason)
            code, reason = Reason.CHECK, failure.reason
            if self.blame_mode and self.runner.state.mode_matters and failure.check not in _NOT_THE_MODE:
                code, reason = Reason.TRAIN_MODE, f"model is in train mode (call model.eval() first): {reason}"
            if self.batch:
                raise ValueError(f"batch={self.batch} fails the check {failure.check!r}: {reason}") from failure
            serial = failure.serial or (failure.check != _OTHER_THREAD and self._order_matters())
            if self.elsewhere.wrong and not serial and code is Reason.CHECK:
                code, reason = Reason.THREAD, f"{THREAD_STATE}: {self.elsewhere.wrong}"
            alone = self._alone(code, reason, serial)
            liftable = self.refuted is not None and not serial and code is Reason.CHECK
            candidate = self._candidate(self.refuted) if self.refuted and liftable else None
            return Found(alone, candidate, self.first.spec if self.first else None)

    def _candidate(self, layout: Layout) -> Contract | None:
        """For calls of the same number of rows: the unit in which a lifted graph keeps them apart."""
        rows = {layout.rows(call) for call in self.samples}
        if len(rows) > 1:
            return None
        ragged = find_ragged(self.samples, layout)
        inputs = [self._input(i, layout, ragged) for i in range(len(self.runner.names))]
        names = self.first.spec.leaf_names if self.first else ()
        return Contract(
            "merge", None, False, tuple(inputs), tuple(OutputSpec(name, None, (), False) for name in names),
            frozenset(), self.runner.aliases, None, tuple(self.runner.checks), call_rows=rows.pop(),
        )  # fmt: skip

    def _order_matters(self) -> bool:
        """Whether a call that runs alone may depend on those before it; the failed check need not have shown it."""
        state = self.runner.state
        if self.first is None:
            return False
        if state.changed() is not None or state.moved_attributes():
            return True
        try:
            return bool(gap_between(self.first, self.elsewhere.again(self.samples[0], self.first), self.runner)[0])
        except Unsafe as failure:
            return failure.serial
        except Exception:  # it took this call before
            return True

    def _merging(self) -> Contract:
        runner = self.runner
        generators = PlainGenerators()
        self.first = first = runner(self.samples[0])
        self._check_generators(generators)
        for other in self._shapes()[1:]:
            runner(other[0])  # a sample that the model refuses is the user's error: it comes out
        self._check_names(first)
        self._check_repeat(first)
        self._check_outputs(first)
        layout, proofs = self._find_layout()
        finder = LengthFinder(
            runner, layout, self.stated_outputs, self.pad, self._sizes()[:2], proof_follows=self.proof_follows
        )
        ragged = finder.find(self.samples, proofs)
        self._check_state(proofs[0])
        inputs = [self._input(i, layout, ragged) for i in range(len(runner.names))]
        outputs = [
            OutputSpec(name, axis, ragged.trims.get(j, ()), layout.stacked and axis is not None, *_fold_of(fold))
            for j, (name, axis, fold) in enumerate(
                zip(first.spec.leaf_names, proofs[0].axes, proofs[0].folds, strict=True)
            )
        ]
        return Contract(
            "merge", ragged.why_not, False, tuple(inputs), tuple(outputs), ragged.padded, runner.aliases,
            proofs[0].row_seconds, tuple(runner.checks), code=Reason.LENGTHS if ragged.why_not else None,
        )  # fmt: skip

    def _input(self, i: int, layout: Layout, ragged: Ragged) -> InputSpec:
        leaf, dim = self.samples[0][i], layout.dims[i]
        filled = any(leaf_ == i and symbol in ragged.padded for leaf_, _, symbol in ragged.places)
        return InputSpec(
            self.runner.names[i], leaf.dtype, str(leaf.device), dim, layout.stacked and dim is not None,
            tuple(ragged.sizes[i]), ragged.values[i] if filled else None,
        )  # fmt: skip

    def _alone(self, code: Reason, reason: str, serial: bool) -> Contract:
        ragged = find_ragged(self.samples, Layout((None,) * len(self.runner.names)))
        inputs = [self._input(i, Layout((None,) * len(self.runner.names)), ragged) for i in range(len(ragged.sizes))]
        outputs = self.first.spec.leaf_names if self.first else ()
        return Contract(
            "alone", reason, serial, tuple(inputs),
            tuple(OutputSpec(name, None, (), False) for name in outputs), frozenset(), self.runner.aliases,
            None, tuple(self.runner.checks), code=code,
        )  # fmt: skip

    def _shapes(self) -> list[list[Leaves]]:
        """The sample calls in groups of equal shapes, the first sample's first."""
        groups: dict[tuple[torch.Size, ...], list[Leaves]] = {}
        for call in self.samples:
            groups.setdefault(tuple(leaf.shape for leaf in call), []).append(call)
        return list(groups.values())

    def _check_names(self, first: Outcome) -> None:
        inputs, outputs = self.runner.names, first.spec.leaf_names
        unknown = sorted(set(self.batch) - set(inputs) - set(outputs))
        if unknown:
            known = f"inputs: {list(inputs)}, outputs: {list(outputs)}"
            raise ValueError(f"batch= names no input or output of the model: {unknown} ({known})")
        self.stated_outputs = {name: dim for name, dim in self.batch.items() if name not in inputs and dim is not None}

    def _check_generators(self, before: PlainGenerators) -> None:
        whose = before.moved_by(lambda: self.runner(self.samples[0], last=True))
        if whose is not None:
            text = f"model draws random numbers ({whose} generator moved in each of {self.runner.runs} runs)"
            raise Unsafe("random numbers", text, serial=True)

    def _check_repeat(self, first: Outcome) -> None:
        """The same call again; tells state and train mode apart."""
        changed = self.runner.state.changed()
        if changed is not None:
            raise Unsafe("state unchanged", f"model is stateful: {changed[0]} changed by {changed[1]:.3g}", serial=True)
        self.runner.record("state unchanged", True, "0 buffers or parameters changed")
        self.again = again = self.runner(self.samples[0])
        gap, name = gap_between(first, again, self.runner)
        if gap:
            raise Unsafe("same call twice", self._stateful(name, gap, "the same call twice"), serial=True)
        self.runner.record("same call twice", True, "differs by 0")
        self.runner.record("inputs unchanged", True, "changed by 0")

    def _stateful(self, name: str, gap: float, when: str) -> str:
        moved = self.runner.state.moved_attributes()
        hint = f" (attribute {moved[0]!r} changed)" if moved else ""
        return f"model is stateful or not deterministic{hint}: output {name!r} of {when} differs by {gap:.3g}"

    def _check_outputs(self, first: Outcome) -> None:
        opaque = first.spec.opaque()
        if opaque:
            kinds = f"output {opaque[0][0]!r} is a {type(opaque[0][1]).__name__}, no tensor"
            hint = "; use_cache=False leaves it out" if "Cache" in kinds else ""
            raise Unsafe("outputs", f"{kinds}: only tensors can be split ({len(opaque)} such outputs{hint})")
        if not first.leaves:
            constants = first.spec.constants()
            kinds = f"output {constants[0][0]!r} is a {type(constants[0][1]).__name__}" if constants else "it is empty"
            raise Unsafe("outputs", f"the output holds 0 tensors ({kinds}): only tensors can be split")
        empty = [name for name, leaf in zip(first.spec.leaf_names, first.leaves, strict=True) if not leaf.numel()]
        if empty:
            raise Unsafe("outputs", f"output {empty[0]!r} has 0 entries, which shows nothing of its rows")
        if not self.samples[0]:
            raise Unsafe("inputs", "the calls hold 0 tensors: there is nothing to merge")

    def _sizes(self) -> tuple[int, ...]:
        """Batch sizes to try: fewer where the model is slow or its tensors are large."""
        assert self.again is not None
        # A graph that is to be proven is compared with the module at more rows than these.
        sizes: tuple[int, ...] = (1, 2, 3) if self.proof_follows else (1, 2, 3, 5)
        while len(sizes) > 2:
            rows = sum(sizes) + 5 * sizes[-1]
            late = self.again.seconds * rows > self.runner.seconds_left / 2
            late |= self.runner.slow and sizes[-1] > 3
            if not late and self.runner.bytes_per_run * sizes[-1] * 4 <= self.runner.max_bytes:
                break
            sizes = sizes[:-1]
        if self.runner.bytes_per_run * sizes[-1] > self.runner.max_bytes:
            need = self.runner.bytes_per_run * sizes[-1]
            raise Unsafe("memory", f"probing would hold {need} bytes of tensors, max_bytes is {self.runner.max_bytes}")
        return sizes

    def _find_layout(self) -> tuple[Layout, list[RowProof]]:
        failures: list[tuple[int, Unsafe]] = []
        sizes = self._sizes()
        calls = [group[0] for group in self._shapes()]
        stated = {name: dim for name, dim in self.batch.items() if name in self.runner.names}
        for layout, family in layouts(calls, self.runner.names, stated):
            before = len(self.runner.checks)
            try:
                return layout, self._prove(layout, sizes)
            except OutOfTime:
                raise
            except Unsafe as failure:
                del self.runner.checks[before:]
                if failure.serial or failure.check == "inputs unchanged":
                    raise
                failures.append((family, failure))
                if failure.stage > 1 and self.refuted is None:
                    self.refuted = layout
        if not failures:
            raise Unsafe("layout", "no input has a batch dim (0 layouts to try)")
        # The likeliest place of the batch gives the reason, unless the model only raised there.
        ran = [number for number, failure in failures if failure.stage > 1] or [failures[0][0]]
        raise max((failure for number, failure in failures if number == ran[0]), key=lambda failure: failure.stage)

    def _prove(self, layout: Layout, sizes: tuple[int, ...]) -> list[RowProof]:
        """Row independence at each sample length, thorough at the first."""
        ragged = find_ragged([group[0] for group in self._shapes()], layout)
        by_length: dict[tuple[tuple[str, int], ...], list[Leaves]] = {}
        for call in self.samples:
            by_length.setdefault(tuple(ragged.lengths(call).items()), []).append(call)
        proofs: list[RowProof] = []
        for lengths, calls in list(by_length.items())[:_MAX_LENGTHS]:
            some = sizes if not proofs else sizes[:2]
            known = dict(lengths)
            proofs.append(
                prove_at_length(
                    self.runner, layout, self.stated_outputs, calls, known, some, proofs,
                    proof_follows=self.proof_follows,
                )
            )  # fmt: skip
        return proofs

    def _check_state(self, proof: RowProof) -> None:
        """After all runs: the first call still gives the same, and so does another row on the old state."""
        assert self.first is not None
        runner = self.runner
        changed = runner.state.changed()
        if changed is not None:
            raise Unsafe("state unchanged", f"model is stateful: {changed[0]} changed by {changed[1]:.3g}", serial=True)
        gap, name = gap_between(self.first, self.elsewhere.again(self.samples[0], self.first), runner)
        if gap:
            raise Unsafe("same call later", self._stateful(name, gap, "the same call after others"), serial=True)
        moved = runner.state.moved_attributes()
        if moved:
            # A cache may hold what belongs to one call: without it, another row must give the same.
            runner.state.restore()
            gap, name = gap_between(proof.own[-1], runner(proof.units[-1], last=True), runner)
            if gap:
                text = f"model is stateful (attribute {moved[0]!r} changed): output {name!r}"
                raise Unsafe("same call first", f"{text} depends on earlier calls, by {gap:.3g}", serial=True)
        if self.elsewhere.wrong:
            raise Unsafe(_OTHER_THREAD, f"{THREAD_STATE}: {self.elsewhere.wrong}")
        runner.record("same call later", True, "differs by 0")
