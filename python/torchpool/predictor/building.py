"""Builds what serves a kind of call: a graph that is captured elsewhere, and equal to the module."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchpool import _core
from torchpool.call import Call, one_intra_op_thread, replace_tensors, tree
from torchpool.capture import (
    CaptureError,
    Difference,
    Programs,
    ProvenRows,
    Source,
    Tolerance,
    capture_elsewhere,
    compare,
    compare_calls,
    refuse_hooks,
    serves,
)
from torchpool.contract import (
    Contract,
    Leaves,
    OutputSpec,
    PaddingVerdict,
    choose_first_batch,
    first_and_most,
    from_one,
    samples_for_proof,
    with_rows,
)
from torchpool.contract.probe import variables_read
from torchpool.insight import Timing
from torchpool.predictor.knowledge import Outcome, Proven, Unproven

log = logging.getLogger("torchpool")

_TIMED_CALLS = 8  # of a lifted graph's batch, to see whether it is faster than the calls alone
_TIMED_RUNS = 5
_PROFILE_RUNS = 20
_RESTLESS = "its weights kept changing while the graph was compared with the module; it is captured again later"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 2.0  # seconds between two comparisons while weights change


class RestlessWeights(CaptureError):
    """Of a graph nothing can be told while somebody writes the weights, which may come to an end."""


@dataclass(frozen=True)
class CapturedKind:
    """A kind of call as far as a capture has to know it."""

    id: int
    number: int
    """Under which the extension takes it over."""
    call: Call
    """Of the kind; its tensors may be gone."""
    samples: Sequence[Leaves]
    contract: Contract
    """The candidate: what is to be proven."""
    contradicted: str | None
    """Why its rows cannot be independent: then only a lifted graph may serve it."""
    rows: int
    """Of a call; samples may have been cut to fewer."""
    proof_needed: bool
    """Its calls are merged only once their rows are proven independent, whatever holds for others."""
    ambient: bool
    """Its calls are made under autocast: the module serves them, as far as they are proven without."""
    context: contextvars.Context
    """Of the call that it was learned from."""
    before: CapturedKind | None
    """What is in force until this is, where calls of other sizes have come."""
    started: float
    """When it was learned, as time.monotonic() has it."""


@dataclass(frozen=True)
class Built:
    """A graph that was compared with the module."""

    backend: _core.GraphBackend | None
    """None: no graph can serve what is proven on it, so that the module does."""
    run: Callable[[Leaves], Any]
    """The backend's, or the module's."""
    contract: Contract
    """With the outputs' rows as they were proven."""
    spec: tree.TreeSpec
    """Of the results."""
    notes: tuple[str, ...]
    """What holds for the graph, such as lengths that it is frozen to."""
    difference: Difference
    programs: Programs | None = None
    """Of the graph, without the module's tensors, for all sizes that it takes."""
    batch: tuple[int, int] | None = None
    """Rows of a batch, at first and at most; None: to be measured."""


def build(
    target: Callable[..., Any],
    module: torch.nn.Module,
    kind: CapturedKind,
    dtype: torch.dtype | None,
    *,
    weights: str | None = None,
    proof_needed: bool,
    wanted: Callable[[], bool],
    gate: _core.UpdateGate,
    known: Outcome | None = None,
    invariant: bool = False,
) -> Built:
    """A graph of the target for calls of this kind, equal to the module on one row and on several.

    Raises CaptureError, which says what is in the way, also soon after it is `wanted` no longer. `proof_needed`: a
    graph whose rows may meet is in the way, too; `invariant`: so is one whose rows' bits may depend on a batch. Runs of
    the module pass the `gate`. `known`: what this has come to for another predictor of the module, or for one whose
    knowledge was saved.
    """
    if known is not None:
        try:
            return _rebuild(target, module, kind, dtype, known, wanted=wanted, gate=gate)
        except _Stale as stale:
            log.warning("what was saved of the model is not used, and its graph made anew: %s", stale)

    others: list[tree.TreeSpec] = []  # of results that are put together in another way than the first

    def run(leaves: Leaves) -> Leaves:
        args, kwargs = replace_tensors(kind.call, leaves)
        with torch.no_grad():
            found, spec = tree.flatten(target(*args, **kwargs))
        if spec != source.spec:
            others.append(spec)
        return found

    def eager(leaves: Leaves) -> Leaves:
        # The graph is captured where no context variable is set: right under the caller's, it depends on none.
        return gate.run(lambda: kind.context.copy().run(run, leaves))

    refuse_hooks(module)
    # What they hold in the call that it is learned from, such as their defaults, would be part of the graph.
    args, kwargs = replace_tensors(kind.call, [leaf.clone() for leaf in kind.samples[0]])
    call = functools.partial(target, *args, **kwargs)
    if (read := gate.run(lambda: kind.context.copy().run(variables_read, target, call))) is not None:
        raise CaptureError(f"the module reads {read}, which a graph cannot")
    source = gate.run(
        lambda: kind.context.copy().run(
            Source.of,
            target,
            module,
            kind.call,
            kind.samples,
            kind.contract,
            dtype,
            weights=weights,
            proof_needed=proof_needed,
            rows=kind.rows,
            invariant=invariant,
        )
    )
    try:
        programs = capture_elsewhere(source, wanted)
    except CaptureError as error:
        if not proof_needed or error.proven is None or invariant:
            raise
        contract = proven_contract(kind.contract, error.proven, kind.contradicted)
        return Built(None, eager, contract, source.spec, (f"none, the module serves them: {error}",), Difference())
    contract = proven_contract(kind.contract, programs.rows, kind.contradicted)
    narrow = programs.plain.checks
    wrong: str | None = None
    for widen in (True, False) if programs.starts_at_two else (False,):
        others.clear()
        checked = programs.with_checks(from_one(narrow) if widen else narrow)
        bound = checked.bound(module)
        backend, difference, wrong = _compared(bound, contract, kind, eager, dtype, widen, wanted)
        wrong = wrong if not others else "its result, or a value in it that is no tensor, is another for other calls"
        if wrong is None:
            if programs.rows.call_rows is not None:
                _refuse_slower(backend, eager, kind.samples[0], contract)
            if programs.starts_at_two and not widen:
                contract = dataclasses.replace(contract, padding=tuple(map(_not_from_one, contract.padding)))
            notes = (*programs.specialised, *programs.notes)
            return Built(backend, backend.run, contract, source.spec, notes, difference, checked)
    raise CaptureError(f"the captured graph is not equal to the module: {wrong}", programs.rows.verdict)


class _Stale(Exception):
    """What was read from a file is of no use for the module; says why."""


def _rebuild(
    target: Callable[..., Any],
    module: torch.nn.Module,
    kind: CapturedKind,
    dtype: torch.dtype | None,
    outcome: Outcome,
    *,
    wanted: Callable[[], bool],
    gate: _core.UpdateGate,
) -> Built:
    """What `build` has given for another predictor of this very module, without a run of it. Raises CaptureError where
    that was in vain, or where the module was changed since so that no graph serves it. What comes from a file is
    compared with the module, as `build` does; it raises _Stale where it is of no use."""
    if isinstance(outcome, Unproven):
        raise CaptureError(outcome.reason, outcome.rows)
    refuse_hooks(module)

    def run(leaves: Leaves) -> Any:
        args, kwargs = replace_tensors(kind.call, leaves)
        with torch.no_grad():
            return target(*args, **kwargs)

    def eager(leaves: Leaves) -> Leaves:
        return gate.run(lambda: tree.flatten(kind.context.copy().run(run, leaves))[0])

    programs, backend, difference = outcome.programs, None, Difference()
    if programs is not None:
        serves(target, module, kind.samples, outcome.contract, dtype)
        try:
            backend, difference = _backend_of(outcome, programs, module, kind, dtype, eager, wanted)
        except (ValueError, RuntimeError) as error:  # of an operator that is not registered here, say
            if not outcome.from_file:
                raise
            raise _Stale(f"its program cannot be used: {error}") from error
    by = run if backend is None else backend.run
    return Built(backend, by, outcome.contract, outcome.spec, outcome.notes, difference, programs, outcome.batch)


def _backend_of(
    outcome: Proven,
    programs: Programs,
    module: torch.nn.Module,
    kind: CapturedKind,
    dtype: torch.dtype | None,
    eager: Callable[[Leaves], Leaves],
    wanted: Callable[[], bool],
) -> tuple[_core.GraphBackend, Difference]:
    bound = programs.bound(module)
    if not outcome.from_file:
        return _core.GraphBackend(bound.packed, bound.plain), Difference()
    # A fingerprint cannot tell all that a model depends on: numbers show whether the graph is this one's.
    backend, difference, wrong = _compared(bound, outcome.contract, kind, eager, dtype, False, wanted)
    if wrong is not None:
        raise _Stale(f"its graph is not equal to the module: {wrong}")
    return backend, difference


def measured_batch(built: Built, kind: CapturedKind, max_batch: int | None) -> tuple[int, int]:
    """Rows of a batch, at first and at most, where the user has bounded them or not."""
    chosen = choose_first_batch(built.run, kind.samples[0], built.contract) if max_batch is None else max_batch
    return first_and_most(chosen, max_batch)


def _compared(
    bound: Programs,
    contract: Contract,
    kind: CapturedKind,
    eager: Callable[[Leaves], Leaves],
    dtype: torch.dtype | None,
    widen: bool,
    wanted: Callable[[], bool],
) -> tuple[_core.GraphBackend, Difference, str | None]:
    """A backend, and how far it is from the module. Weights that are written meanwhile make a difference of their own:
    it is then compared again. Raises RestlessWeights where they never rest for as long as that takes."""
    pause, tolerance = _FIRST_PAUSE, Tolerance.of(dtype, bound.weights)
    while True:
        watch = _core.WeightWatch([weight for weight in bound.plain.weights if weight is not None])
        backend = _core.GraphBackend(bound.packed, bound.plain)
        if bound.rows.call_rows is None:
            samples = samples_for_proof(eager, kind.samples, contract, bound.plain.checks, widen=widen)
            difference, wrong = compare(backend, samples, tolerance)
        else:
            difference, wrong = compare_calls(backend, eager, kind.samples, contract, bound.plain.checks, tolerance)
        if wrong is None or watch.look() == "same":
            return backend, difference, wrong
        if pause > _LONGEST_PAUSE or not wanted():
            raise RestlessWeights(_RESTLESS)
        time.sleep(pause)  # a training step may be over by then
        pause *= 2


def proven_contract(candidate: Contract, rows: ProvenRows, contradicted: str | None) -> Contract:
    """The candidate with its outputs as the proof has them. Raises CaptureError where numbers say otherwise."""
    if not rows.verdict.allows:
        return dataclasses.replace(candidate, rows=rows.verdict)
    if rows.verdict.kind == "proven" and contradicted is not None:
        # The graph is not all that the module does: numbers have the last word.
        text = f"{rows.verdict.text}, but its results say otherwise: {contradicted}"
        raise CaptureError(text, dataclasses.replace(rows.verdict, kind="mixes", text=text))
    outputs = []
    for spec, found in zip(candidate.outputs, rows.outputs, strict=True):
        if found is None:
            trims = spec.trims
            new = OutputSpec(spec.name, None, trims, False)
        else:
            stacked = found.stacked or (spec.stacked and rows.call_rows is None)
            trims = spec.trims
            if found.stacked and not spec.stacked:  # a new dim 0, before the call's own
                trims = tuple(dataclasses.replace(trim, dim=trim.dim + 1) for trim in trims)
            new = OutputSpec(spec.name, found.batch_dim, trims, stacked, found.outer, found.inner)
        if rows.verdict.kind == "proven" and (new.batch_dim, _folds(new)) != (spec.batch_dim, _folds(spec)):
            text = (
                f"the proof has the rows of output {spec.name!r} in dim {new.batch_dim}, its shapes in {spec.batch_dim}"
            )
            raise CaptureError(text, dataclasses.replace(rows.verdict, kind="unknown", text=text))
        if any(trim.dim == new.batch_dim for trim in trims) and (new.outer, new.inner) != (spec.outer, spec.inner):
            # Where padding is cut off was found along a fold as numbers have it.
            text = (
                f"the proof has output {spec.name!r} fold its rows as {new.outer} x rows x {new.inner}, its shapes as"
            )
            text = f"{text} {spec.outer} x rows x {spec.inner} (None: any)"
            raise CaptureError(text, dataclasses.replace(rows.verdict, kind="unknown", text=text))
        outputs.append(new)
    reason, code = candidate.reason, candidate.code
    return dataclasses.replace(
        candidate,
        outputs=tuple(outputs),
        rows=rows.verdict,
        call_rows=rows.call_rows,
        reason=reason,
        code=code,
        padding=rows.padding,
    )


def _not_from_one(verdict: PaddingVerdict) -> PaddingVerdict:
    """Of a graph that is right for lengths from 2 on only: calls of length 1 are padded to these."""
    text = f"padding of {verdict.symbol} by numbers: the graph is not equal to the module at length 1"
    return PaddingVerdict(verdict.symbol, "numbers", text)


def _folds(spec: OutputSpec) -> bool:
    return (spec.outer, spec.inner) != (1, 1)


def _refuse_slower(
    backend: _core.GraphBackend, eager: Callable[[Leaves], Leaves], sample: Leaves, contract: Contract
) -> None:
    """A lifted graph does more than the module: where it is not faster than the calls alone, these run alone."""
    rows = contract.call_rows or 1
    one = with_rows(sample, contract, rows)
    many = with_rows(sample, contract, rows * _TIMED_CALLS)

    def seconds(run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    with one_intra_op_thread():  # as a worker has for small batches
        times = [(seconds(lambda: backend.run(many)), seconds(lambda: eager(one))) for _ in range(_TIMED_RUNS)]
    together, alone = min(pair[0] for pair in times), min(pair[1] for pair in times) * _TIMED_CALLS
    if together >= alone:
        assert contract.rows is not None
        text = f"{contract.rows.text}; alone, since {_TIMED_CALLS} calls together take {together / alone:.1f} of that"
        raise CaptureError(text, dataclasses.replace(contract.rows, kind="mixes", text=text, lifted=0))


def timed(kind: CapturedKind, backend: _core.GraphBackend, rows: int | None) -> Timing | None:
    """How long the operators of a graph take on batches of that many rows; None for None."""
    if rows is None:
        return None
    leaves = with_rows(kind.samples[0], kind.contract, rows)
    backend.profile(leaves)
    return Timing(tuple(tuple(leaf.shape) for leaf in leaves), backend.profile(leaves, _PROFILE_RUNS))
