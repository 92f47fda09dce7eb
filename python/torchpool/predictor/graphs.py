"""Captures modules behind the calls that they serve meanwhile, proves the graphs, and hands them over."""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from torchpool import _core
from torchpool.call import Call, replace_tensors, tree
from torchpool.capture import CaptureError, Difference, Source, capture_elsewhere, prove, refuse_hooks
from torchpool.contract import (
    Contract,
    Leaves,
    brief,
    choose_first_batch,
    first_and_most,
    from_one,
    samples_for_proof,
    with_rows,
)
from torchpool.insight import Timing, program_listing
from torchpool.runtime import Child, in_child

log = logging.getLogger("torchpool")


_MAX_REBUILDS = 8
_PROFILE_RUNS = 20


class Runner(Protocol):
    """Runs a predictor's calls: by the module, until it is told to run a kind of them by a graph."""

    @property
    def volatile_attributes(self) -> list[str]:
        """Attributes that the module writes when it runs."""

    def serve_by_graph(
        self, kind_id: int, contract: Contract, graph: _core.GraphBackend, first_batch: int, max_batch: int, /
    ) -> bool:
        """Runs calls of this kind by the graph from now on; False where the contract is not theirs any more."""


@dataclass(frozen=True)
class Served:
    """Of a predictor, what its graphs need. Held for a moment only: a dropped predictor is to be freed at once."""

    target: Callable[..., Any]
    """What a call runs."""
    dtype: torch.dtype | None
    """What graphs compute in; None: what the module does."""
    max_batch: int | None
    """Rows, where the user has bounded them."""
    closed: bool
    runner: Runner
    grow_batch: Callable[[int, int], None]
    """Is told of how many rows the graph's batches are, at first and at most."""


@dataclass
class Captured:
    """What became of the capture of one kind of call."""

    reason: str | None = None
    """Why the module serves these calls itself; None where a graph does."""
    notes: tuple[str, ...] = ()
    """What holds for the graph, such as lengths that it is frozen to."""
    backend: _core.GraphBackend | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of call as far as a capture has to know it."""

    id: int
    number: int
    """Under which the extension takes it over."""
    call: Call
    """Of the kind; its tensors may be gone."""
    samples: Sequence[Leaves]
    contract: Contract
    context: contextvars.Context
    """Of the call that it was learned from."""


@dataclass(frozen=True)
class Built:
    """A graph that was proven equal to the module."""

    backend: _core.GraphBackend
    specialised: tuple[str, ...]
    difference: Difference


def build(
    target: Callable[..., Any],
    module: torch.nn.Module,
    kind: Kind,
    dtype: torch.dtype | None,
    *,
    wanted: Callable[[], bool],
) -> Built:
    """A proven graph of the target for calls of this kind. Raises CaptureError, which says what is in the way, also
    soon after it is `wanted` no longer."""

    def run(leaves: Leaves) -> Leaves:
        args, kwargs = replace_tensors(kind.call, leaves)
        with torch.no_grad():
            return tree.flatten(target(*args, **kwargs))[0]

    def eager(leaves: Leaves) -> Leaves:
        # The graph is captured where no context variable is set: if it is right under the caller's, these do not count.
        return kind.context.copy().run(run, leaves)

    refuse_hooks(module)
    source = kind.context.copy().run(Source.of, target, module, kind.call, kind.samples, kind.contract, dtype)
    programs = capture_elsewhere(source, wanted)
    narrow = programs.plain.checks
    wrong: str | None = None
    for widen in (True, False) if programs.starts_at_two else (False,):
        checks = from_one(narrow) if widen else narrow
        bound = programs.bound(module, checks)
        backend = _core.GraphBackend(bound.packed, bound.plain)
        samples = samples_for_proof(eager, kind.samples, kind.contract, checks, widen=widen)
        difference, wrong = prove(backend, eager, samples, dtype)
        if wrong is None:
            return Built(backend, programs.specialised, difference)
    raise CaptureError(f"the captured graph is not equal to the module: {wrong}")


class Capturer:
    """One thread that captures, while there is something to capture: one export at a time is load enough."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting = 0
        self._thread: threading.Thread | None = None

    def add(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._jobs.put(job)
            self._waiting += 1
            if self._thread is None:
                # Not a daemon: torch aborts the process when the interpreter goes away under it.
                self._thread = threading.Thread(target=self._serve, name="torchpool-capture", daemon=False)
                self._thread.start()

    def _serve(self) -> None:
        while True:
            with self._lock:
                if self._waiting == 0:
                    self._thread = None
                    return
                self._waiting -= 1
                job = self._jobs.get()
            if threading.main_thread().is_alive():  # at exit nobody waits for a graph
                job()
            del job


_capturer = Capturer()


def _start_afresh() -> None:
    # The thread did not survive the fork, and its lock may be held.
    global _capturer
    _capturer = Capturer()


in_child(Child.CAPTURES, _start_afresh)


class Graphs:
    """The graphs of one predictor's kinds of calls."""

    def __init__(self, served: Callable[[], Served | None], module: torch.nn.Module) -> None:
        """`served` gives None once the predictor was dropped; neither it nor this holds the module."""
        self._served = served
        self._module = weakref.ref(module)
        self._changed = threading.Condition()
        self._under_way = 0
        self._kinds: dict[int, Kind] = {}
        self._rebuilt: dict[int, int] = {}
        self.captured: dict[int, Captured] = {}

    def learned(self, kind_id: int, number: int, call: Call, samples: Sequence[Leaves], contract: Contract) -> None:
        """A kind of call was learned: its capture begins once the extension has taken it over."""
        if torch.is_autocast_enabled("cpu"):  # the extension serves such calls by the module in any case
            self.captured[kind_id] = Captured("calls under autocast are served by the module")
            return
        args, kwargs = replace_tensors(call, samples[0])
        own = [list(sample) for sample in samples]
        kind = Kind(kind_id, number, (args, kwargs), own, contract, contextvars.copy_context())
        with self._changed:
            known = self._kinds.get(kind_id)
            if known is None or known.number < number:  # of two threads that learn the same, as in the extension
                self._kinds[kind_id] = kind

    def installed(self, kind_id: int, number: int) -> None:
        """The extension serves by what was learned under this number: its capture begins, behind the calls."""
        kind = self._kinds.get(kind_id)
        if kind is not None and kind.number == number:
            self._start(kind)

    def _start(self, kind: Kind) -> None:
        with self._changed:
            self._under_way += 1
            self.captured.pop(kind.id, None)
        _capturer.add(lambda: self._capture(kind))

    def again(self, kind_id: int) -> None:
        """The weights of a graph were replaced: it is captured anew, but not for ever."""
        with self._changed:
            kind = self._kinds.get(kind_id)
            count = self._rebuilt[kind_id] = self._rebuilt.get(kind_id, 0) + 1
            if kind is None or count > _MAX_REBUILDS:
                text = f"its weights' memory was replaced {count} times while it served; refresh() captures once more"
                self.captured[kind_id] = Captured(text)
                return
        self._start(kind)

    def forget(self) -> None:
        """Nothing learned so far holds any more."""
        with self._changed:
            self._kinds.clear()
            self._rebuilt.clear()
            self.captured.clear()

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
            program_listing([spec.name for spec in kind.contract.inputs], backend.text(), _timed(kind, backend, rows))
            for kind, backend in served
        ]

    def _capture(self, kind: Kind) -> None:
        captured = Captured()
        try:
            self._build_and_serve(kind, captured)
        except CaptureError as error:
            captured.reason = str(error)
        except Exception as error:
            captured.reason = f"capturing failed: {brief(error, 2)}"
            log.debug("capturing failed", exc_info=True)
        _core.trim_heap()  # of what proving took: 25 MB for MiniLM, which malloc would keep
        with self._changed:
            self._under_way -= 1
            if self._kinds.get(kind.id) is kind:
                self.captured[kind.id] = captured
            self._changed.notify_all()

    def _wanted(self, kind: Kind) -> bool:
        served = self._served()
        return served is not None and not served.closed and self._kinds.get(kind.id) is kind

    def _build_and_serve(self, kind: Kind, captured: Captured) -> None:
        served, module = self._served(), self._module()
        if served is None or module is None or not self._wanted(kind):
            return
        if written := served.runner.volatile_attributes:
            raise CaptureError(f"the module writes to itself when it runs, which a graph would not do: {written[0]}")
        target, dtype, most = served.target, served.dtype, served.max_batch
        del served
        built = build(target, module, kind, dtype, wanted=lambda: self._wanted(kind))
        backend = built.backend
        captured.notes = built.specialised
        if dtype is not None:
            off = built.difference
            text = f"computed in {dtype}: differs by {off.largest:.1e} of the largest value, {off.mean:.1e} on average"
            captured.notes = (text, *captured.notes)
        chosen = choose_first_batch(backend.run, kind.samples[0], kind.contract) if most is None else most
        first, most = first_and_most(chosen, most)
        served = self._served()
        if served is None:
            return
        if not served.runner.serve_by_graph(kind.id, kind.contract, backend, first, most):
            captured.reason = "other calls were learned from meanwhile"
            return
        captured.backend = backend
        served.grow_batch(first, most)  # the look-ahead of maps follows it


def _timed(kind: Kind, backend: _core.GraphBackend, rows: int | None) -> Timing | None:
    if rows is None:
        return None
    leaves = with_rows(kind.samples[0], kind.contract, rows)
    backend.profile(leaves)
    return Timing(tuple(tuple(leaf.shape) for leaf in leaves), backend.profile(leaves, _PROFILE_RUNS))
