"""Learning from calls that cannot wait for it, since they have deadlines."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torchpool import _core
from torchpool.call import Ambient

log = logging.getLogger("torchpool")


class Promising(Protocol):
    """A predictor, as far as its promises go."""

    def _settle_promise(self, kind_id: int, args: tuple[Any, ...], kwargs: dict[str, Any] | None, learn: bool) -> None:
        """Learns from this call as it was promised; `learn` False: it is not to be learned from."""


@dataclass(frozen=True)
class _Promise:
    predictor: Promising
    """Kept until it is settled: its learner's runs need it."""
    kind_id: int
    answered: _core.Pending | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any] | None
    ambient: Ambient


class Behind:
    """Settles one predictor's promises to learn, in order, on a thread that ends with them."""

    def __init__(self, predictor: Callable[[], Promising | None]) -> None:
        """`predictor` gives None once it was dropped."""
        self._predictor = predictor
        self._lock = threading.Lock()
        self._promises: deque[_Promise] = deque()
        self._serving = False

    def add(
        self, kind_id: int, answered: _core.Pending | None, args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> bool:
        """Has a kind learned, in the calling thread's state, from a call like `answered`, once that is over and has let
        go of the module. False where it cannot be: the process may start no more threads."""
        predictor = self._predictor()
        if predictor is None:
            return False
        promise = _Promise(predictor, kind_id, answered, args, kwargs, Ambient())
        # Not a daemon: torch aborts the process when the interpreter goes away under it.
        thread = threading.Thread(target=self._serve, name="torchpool-learn", daemon=False)
        starts = False
        try:
            with self._lock:
                self._promises.append(promise)
                if self._serving:
                    return True
                starts = self._serving = True
            thread.start()
        except BaseException as error:  # an interrupt among them
            if not starts or thread.is_alive():
                raise
            self._give_up(promise)
            if not isinstance(error, RuntimeError):
                raise
            log.warning("no thread to learn on (%s): a later call is learned from", error)
            return False
        return True

    def _give_up(self, promise: _Promise) -> None:
        """No thread was started for `promise`, whose call knows: for the others."""
        with self._lock:
            self._serving = False
            left = [other for other in self._promises if other is not promise]
            self._promises.clear()
        for other in left:
            self._settle(other, learn=False)

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._promises:
                    self._serving = False
                    return
                promise = self._promises.popleft()
            # At exit nobody waits for what would be learned.
            self._settle(promise, learn=_is_over(promise) and threading.main_thread().is_alive())
            del promise

    def _settle(self, promise: _Promise, *, learn: bool) -> None:
        settle = promise.predictor._settle_promise
        try:
            promise.ambient.run(lambda: settle(promise.kind_id, promise.args, promise.kwargs, learn))
        except BaseException:  # SystemExit among them: a model's, which the next call of this kind is told
            log.debug("learning behind a call failed", exc_info=True)


def _is_over(promise: _Promise) -> bool:
    """Waits for the end of its call; whether the model has taken it."""
    try:
        return promise.answered is None or promise.answered.wait_left()
    except BaseException:  # the thread is to go on: others wait for what it learns
        log.debug("waiting for a call to learn from failed", exc_info=True)
        return False
