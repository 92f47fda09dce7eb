"""Captures modules behind the calls that they serve meanwhile, proves the graphs, and hands them over."""

from __future__ import annotations

import contextvars
import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from torchpool import _core
from torchpool.call import Call, replace_tensors
from torchpool.capture import CaptureError
from torchpool.contract import Contract, Leaves, RowsVerdict, brief
from torchpool.insight import program_listing
from torchpool.predictor.building import Built, CapturedKind, RestlessWeights, build, measured_batch, timed
from torchpool.predictor.captured import Captured, Served
from torchpool.predictor.capturer import Capturer
from torchpool.predictor.invariance import refuse_other_bits
from torchpool.predictor.knowledge import Outcomes, Proven, Unproven
from torchpool.predictor.precision import notes_of, rounding_of
from torchpool.runtime import Child, in_child

log = logging.getLogger("torchpool")
T = TypeVar("T")
_MAX_REBUILDS = 8


_capturer = Capturer()


def _start_afresh() -> None:
    # The thread did not survive the fork, and its lock may be held.
    global _capturer
    _capturer = Capturer()


in_child(Child.CAPTURES, _start_afresh)


class Graphs:
    """The graphs of one predictor's kinds of calls."""

    def __init__(self, served: Callable[[], Served | None], module: torch.nn.Module, known: Outcomes) -> None:
        """`served` gives None once the predictor was dropped; neither it nor this holds the module. `known`: outcomes
        of captures for contracts of this model."""
        self._served = served
        self._module = weakref.ref(module)
        self.known = known
        self._changed = threading.Condition()
        self._under_way = 0
        self._kinds: dict[int, CapturedKind] = {}
        self._rebuilt: dict[int, int] = {}
        self._ready: dict[tuple[int, int], tuple[Built, Captured]] = {}
        """By id and number what `prove_now` has built of kinds that the extension has not taken over yet."""
        self.captured: dict[int, Captured] = {}
        self._begun: dict[int, CapturedKind] = {}
        """Kinds whose captures have begun, and have come to nothing yet."""
        self._queued: set[int] = set()
        self._generation = 0
        """Another number for each state of the module."""

    Memory = tuple[
        dict[int, CapturedKind],
        dict[tuple[int, int], tuple[Built, Captured]],
        dict[int, int],
        dict[int, Captured],
        dict[int, CapturedKind],
    ]

    def exchange(self, memory: Memory | None) -> Memory:
        """What was captured of the module in one state, for what was captured in another; None: nothing. Captures that
        are under way stop: they are of neither."""
        with self._changed:
            before = self._kinds, self._ready, self._rebuilt, self.captured, self._begun
            self._kinds, self._ready, self._rebuilt, self.captured, self._begun = memory or ({}, {}, {}, {}, {})
            self._generation += 1
            self.known = {}
        return before

    def resume_stopped(self) -> None:
        """Captures that a change of the module's state has stopped begin anew."""
        with self._changed:
            stopped = [kind for kind in self._begun.values() if kind.id not in self._queued]
        for kind in stopped:
            self._start(kind)

    def learned(
        self,
        kind_id: int,
        number: int,
        call: Call,
        samples: Sequence[Leaves],
        candidate: Contract,
        contradicted: str | None,
        rows: int,
        proof_needed: bool,
    ) -> None:
        """A kind of call was learned: its capture begins once the extension has taken it over. `proof_needed`: also
        where others are merged without."""
        args, kwargs = replace_tensors(call, samples[0])
        kind = CapturedKind(
            id=kind_id,
            number=number,
            call=(args, kwargs),
            samples=[list(sample) for sample in samples],
            contract=candidate,
            contradicted=contradicted,
            rows=rows,
            proof_needed=proof_needed,
            ambient=torch.is_autocast_enabled("cpu"),
            context=contextvars.copy_context(),
            before=None,
            started=time.monotonic(),
        )
        with self._changed:
            if (known := self._kinds.get(kind_id)) is not None and kind_id in self.captured:
                kind = replace(kind, before=replace(known, before=None))
            if known is None or known.number < number:  # of two threads that learn the same, as in the extension
                self._kinds[kind_id] = kind

    def installed(self, kind_id: int, number: int) -> None:
        """The extension serves by what was learned under this number: its capture begins, behind the calls."""
        kind = self._kinds.get(kind_id)
        if kind is not None and kind.number == number:
            self._start(kind)

    def prove_now(self, kind_id: int, number: int) -> tuple[str | None, bool]:
        """Waits for the proof of what was learned under this number; why there is none, if so, and whether that was for
        weights that never rested. None, too, where another thread has learned more of the kind meanwhile, which proves
        that."""
        with self._changed:
            kind = self._kinds.get(kind_id)
        if kind is None or kind.number != number:
            return None, False
        captured = Captured()
        try:
            built = self._try(captured, lambda: self._build(kind, captured))
        except BaseException:
            self._drop(kind)
            raise
        with self._changed:
            if self._kinds.get(kind_id) is not kind:
                return None, False
            if built is not None:
                self._ready[kind_id, number] = built, captured
                return None, False
        self._drop(kind)
        return captured.reason or "the predictor is closed", captured.restless

    def _drop(self, kind: CapturedKind) -> None:
        with self._changed:
            if self._kinds.get(kind.id) is kind:
                del self._kinds[kind.id]
                if kind.before is not None:
                    self._kinds[kind.id] = kind.before

    def after_fork_in_child(self) -> None:
        """A thread that is gone may hold the lock, and none captures."""
        self._changed = threading.Condition()
        self._under_way = 0
        self._ready.clear()
        self._queued.clear()

    def inherit(self, graphs: Mapping[int, _core.GraphBackend | None]) -> None:
        """In a forked child: of what the parent had learned these kinds hold, served by these graphs."""
        with self._changed:
            self._kinds = {kind_id: kind for kind_id, kind in self._kinds.items() if kind_id in graphs}
            kept = {kind_id: found for kind_id, found in self.captured.items() if kind_id in graphs}
            self.captured = {k: replace(found, backend=found.backend and graphs[k]) for k, found in kept.items()}

    def left(self) -> list[CapturedKind]:
        """In a forked child: what its parent was about to capture."""
        return [kind for kind_id, kind in self._kinds.items() if kind_id not in self.captured]

    def resume(self) -> None:
        """Captures what is left."""
        for kind in self.left():
            self._start(kind)

    def failed(self, kind_id: int) -> bool:
        """Whether there is no proof, and will be none."""
        found = self.captured.get(kind_id)
        return found is not None and found.reason is not None

    def _start(self, kind: CapturedKind) -> None:
        with self._changed:
            self._under_way += 1
            self._begun[kind.id] = kind
            self._queued.add(kind.id)
            self.captured.pop(kind.id, None)
        if (
            (kind.id, kind.number) in self._ready or kind.contract in self.known
        ):  # so that the very call is served by it that the kind is learned from
            self._capture(kind)
            return
        try:
            _capturer.add(lambda: self._capture(kind))
        except RuntimeError as error:  # too many threads, or the interpreter ends
            text = f"there is no thread to capture it: {error}; refresh() tries again"
            none = Captured(text, rows=RowsVerdict("no graph", f"no graph: {text}"))
            self._settle(kind, none, self._generation)

    def again(self, kind_id: int) -> None:
        """The weights of a graph were replaced: it is captured anew, but not for ever."""
        with self._changed:
            kind = self._kinds.get(kind_id)
            self.known = {}
            count = self._rebuilt[kind_id] = self._rebuilt.get(kind_id, 0) + 1
            if kind is None or count > _MAX_REBUILDS:
                text = f"its weights' memory was replaced {count} times while it served; refresh() captures once more"
                self.captured[kind_id] = Captured(text, rows=RowsVerdict("no graph", f"no graph: {text}"))
                return
        self._start(kind)

    def forget(self, before: int) -> None:
        """What was learned of kinds with ids below `before` holds no more."""
        self.known = {}
        self._keep(lambda kind_id: kind_id >= before)

    def evicted(self, one: int) -> None:
        """The kind with that id is no more."""
        self._keep(lambda kind_id: kind_id != one)

    def _keep(self, kept: Callable[[int], bool]) -> None:
        with self._changed:
            self._kinds = {kind_id: kind for kind_id, kind in self._kinds.items() if kept(kind_id)}
            self._ready = {key: built for key, built in self._ready.items() if kept(key[0])}
            self._rebuilt = {kind_id: count for kind_id, count in self._rebuilt.items() if kept(kind_id)}
            self.captured = {kind_id: found for kind_id, found in self.captured.items() if kept(kind_id)}
            self._begun = {kind_id: kind for kind_id, kind in self._begun.items() if kept(kind_id)}

    def wait(self, timeout: float | None) -> bool:
        """Until no capture is under way; False when time ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: self._under_way == 0, timeout)

    def listings(self, rows: int | None) -> list[str]:
        """The programs of all graphs, readable; timed on batches of that many rows, unless None."""
        with self._changed:
            served = [
                (self._kinds[kind_id], captured.backend)
                for kind_id, captured in self.captured.items()
                if captured.backend is not None and kind_id in self._kinds
            ]
        return [
            program_listing([spec.name for spec in kind.contract.inputs], backend.text(), timed(kind, backend, rows))
            for kind, backend in served
        ]

    def _capture(self, kind: CapturedKind) -> None:
        captured = Captured()
        with self._changed:
            generation = self._generation
            ready = self._ready.pop((kind.id, kind.number), None)
        known = kind.contract in self.known
        try:
            if ready is None:
                self._try(captured, lambda: self._serve(kind, captured, self._build(kind, captured)))
            else:
                built, captured = ready
                self._try(captured, lambda: self._serve(kind, captured, built))
            if not known:
                _core.trim_heap()  # of what comparing took: 25 MB for MiniLM, which malloc would keep
        except BaseException as error:  # SystemExit in a module's code, say
            captured.reason = captured.reason or f"capturing was ended by {type(error).__name__}"
            captured.rows = captured.rows or RowsVerdict("no graph", captured.reason)
            raise
        finally:
            self._settle(kind, captured, generation)

    def _settle(self, kind: CapturedKind, captured: Captured, generation: int) -> None:
        captured.seconds = time.monotonic() - kind.started
        captured.outcome = captured.outcome or Unproven.of(captured.reason, captured.rows)
        served = self._served()
        changed = served is not None and captured.backend is None and served.runner.module_changed
        tell, keep = (None, None) if served is None or served.closed else (served.stays_alone, served.keep)
        pause = served.pause_of(kind.id) if served is not None and captured.restless else None
        runner = None if served is None or pause is None else served.runner
        del served
        with self._changed:
            self._queued.discard(kind.id)
            if holds := self._kinds.get(kind.id) is kind and generation == self._generation and not changed:
                self.captured[kind.id] = captured
                self._begun.pop(kind.id, None)
        if holds and keep is not None:
            keep()
        if holds and runner is not None and pause is not None:
            runner.learn_again(kind.id, kind.number, pause)
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()
        if holds and pause is None and captured.reason is not None and tell is not None:
            tell(kind.id, captured.reason)

    def _try(self, captured: Captured, work: Callable[[], T]) -> T | None:
        """What the work gives; None, with the reason kept, where a graph cannot be."""
        try:
            return work()
        except CaptureError as error:
            captured.reason, captured.restless = str(error), isinstance(error, RestlessWeights)
            captured.rows = error.rows or captured.rows or RowsVerdict("no graph", f"no graph: {error}")
        except Exception as error:
            captured.reason = f"capturing failed: {brief(error, 2)}"
            captured.rows = RowsVerdict("no graph", captured.reason)
            log.debug("capturing failed", exc_info=True)
        return None

    def _wanted(self, kind: CapturedKind) -> bool:
        served = self._served()
        return served is not None and not served.closed and self._kinds.get(kind.id) is kind

    def _build(self, kind: CapturedKind, captured: Captured) -> Built | None:
        if not threading.main_thread().is_alive():
            raise CaptureError("the interpreter exits")
        served, module = self._served(), self._module()
        if served is None or module is None or not self._wanted(kind):
            return None
        if written := served.runner.volatile_attributes:
            raise CaptureError(f"the module writes to itself when it runs, which a graph would not do: {written[0]}")
        target, needed, gate = served.target, served.proof_needed or kind.proof_needed, served.runner.gate
        dtype, weights, rounds = served.dtype, served.weights, served.rounds
        by_module, invariant = served.by_module or kind.ambient, served.invariant
        del served
        if invariant and by_module:
            raise CaptureError("invariant=True: under autocast the module runs calls, whose bits may depend on a batch")
        wanted, known = functools.partial(self._wanted, kind), self.known.get(kind.contract)
        built = build(
            *(target, module, kind, dtype),
            weights=weights,
            proof_needed=needed,
            invariant=invariant,
            wanted=wanted,
            gate=gate,
            known=known,
        )
        rows = built.contract.rows
        proven = rows is not None and rows.allows
        if not proven and kind.contradicted is not None:
            raise CaptureError(f"rows of a batch were seen to meet: {kind.contradicted}", rows)
        if by_module and not (proven and built.contract.call_rows is None):
            text = f"{rows.text}; the module is called" if rows else "the module is called"
            found = rows and replace(rows, kind="mixes", text=text)
            raise CaptureError(f"{text}, which keeps rows of a batch apart only where they are proven to be", found)
        if invariant:
            refuse_other_bits(built, kind, self.captured.get(kind.id))
        captured.rows, captured.contract, captured.notes = built.contract.rows, built.contract, notes_of(built, dtype)
        if (told := rounding_of(captured.notes)) is not None:
            rounds(told)
        return built

    def _serve(self, kind: CapturedKind, captured: Captured, built: Built | None) -> None:
        served = self._served()
        if served is None or built is None:
            return
        backend = built.backend
        by_module = served.by_module or kind.ambient or backend is None
        most = served.max_batch
        del served
        first, most = built.batch or measured_batch(built, kind, most)
        served = self._served()
        if served is None:
            return
        if not served.runner.serve(kind.id, kind.number, built.contract, built.spec, backend, first, most, by_module):
            captured.reason = "other calls were learned from meanwhile, or rows of a batch were seen to differ"
            return
        captured.backend = None if by_module else backend
        captured.outcome = Proven(built.programs, built.contract, built.spec, captured.notes, (first, most))
        served.grow_batch(first, most)  # the look-ahead of maps follows it
