"""What a run of a module that is not probed shows: does it keep state, does it draw random numbers?"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchpool.contract import refusal
from torchpool.contract.probe import ModuleState, PlainDraws
from torchpool.insight import IN_ORDER, ON_THEIR_THREADS, SIDE_BY_SIDE
from torchpool.predictor.first_runs import FirstRuns
from torchpool.predictor.kinds import Kind
from torchpool.predictor.own_code import OwnCode
from torchpool.predictor.refusals import tells_refusals


class Looks:
    """Of one model. Thread-safe."""

    def __init__(
        self,
        target: Callable[..., Any],
        module: torch.nn.Module | None,
        code: OwnCode,
        kinds: Mapping[int, Kind],
        lock: threading.Lock,
    ) -> None:
        """`kinds`: what was learned, by id, guarded by the lock."""
        self._target, self._module, self._code = target, module, code
        self._kinds = kinds
        self.lock = lock
        self.first_runs = FirstRuns()
        self.wanted = module is not None
        """Whether calls that nothing is learned of may have state, which their first run shows. A plain function's run
        as in a standard pool."""
        self._state: str | None = None
        """As `Kind.state`, for calls of no kind."""

    def later(self, kind_id: int | None) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, bool]]:
        """Runs the model on a call's arguments; its result, and whether it was seen to keep state or to draw."""
        return functools.partial(self._run, kind_id)

    @tells_refusals
    def _run(self, kind_id: int | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool]:
        state, draws = ModuleState(self._module, self._code.reach), PlainDraws(self._target)
        watch = state.watch(ends_draws=False)
        try:
            with self.first_runs.begun(), watch:
                result = draws.watched(self._target)(*args, **kwargs)
        except Exception as error:
            raise refusal.Refused(error) from None
        state.note_run()
        seen = _changes(state) or ("model draws random numbers" if watch.drew else draws.drawn or "")
        with self.lock:
            if kind_id is None:
                self._state = seen or self._state or ""
            elif (kind := self._kinds.get(kind_id)) is not None:
                kind.state = seen or kind.state or ""
        return result, bool(seen)

    def order(self, kind: Kind | None) -> str:
        """In which calls run that are not probed, in words; None: those of no kind."""
        if self._code.thread_state() is not None:
            return ON_THEIR_THREADS
        state = self._state if kind is None else kind.state
        if not self.wanted or state == "":
            return SIDE_BY_SIDE
        return IN_ORDER + (f" ({state})" if state else " until a run has shown that they have no state")

    def forget(self) -> None:
        """The model is another one."""
        self._state = None


def _changes(state: ModuleState) -> str:
    if (changed := state.changed()) is not None:
        return f"model is stateful: {changed[0]} changed"
    moved = state.moved_attributes()
    return f"model is stateful: attribute {moved[0]!r} changed" if moved else ""
