"""Kinds of calls that are not learned from yet: to learn costs as much as hundreds of short calls.

Calls that are waited for are put off, those of maps among them: many programs make some dozens of them, or some
thousands of short ones, and end. Who submits, awaits, asks for `ready()` or calls with a deadline has them learned.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torchpool.call import Ambient, Call, replace_tensors, tensors
from torchpool.predictor.samples import copies

log = logging.getLogger("torchpool")

WORTH_SECONDS = 0.5
"""Of processor time that calls of a kind take: to probe and to capture one takes a second and
more, beside which another half of one is little."""
_MOST_BYTES = 4 << 20  # of the tensors of a call that is kept


@dataclass(frozen=True)
class _Kept:
    call: Call
    ambient: Ambient


class PutOff:
    """Those of one predictor. Thread-safe."""

    def __init__(self, allowed: Callable[[], bool]) -> None:
        """`allowed`: whether calls of the model may be answered before anything is known of it, as it is now; a method
        of who keeps this, which is not kept by it."""
        self._allowed = weakref.WeakMethod(allowed)
        self._lock = threading.Lock()
        self._kept: dict[int, _Kept] = {}

    def after_fork_in_child(self) -> None:
        """A thread that is gone may hold the lock."""
        self._lock = threading.Lock()

    def add(self, kind_id: int, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> float:
        """After how many seconds of its calls a kind is to be learned; 0: at once."""
        call: Call = (args, kwargs or {})
        leaves = tensors(call)
        if sum(leaf.nbytes for leaf in leaves) > _MOST_BYTES or not self._may():
            return 0.0
        with self._lock:
            self._kept[kind_id] = _Kept(replace_tensors(call, copies(leaves)), Ambient())
        return WORTH_SECONDS

    def _may(self) -> bool:
        allowed = self._allowed()
        return allowed is not None and allowed()

    def ends(self, kind_id: int) -> None:
        """The kind is learned now, or is no more."""
        with self._lock:
            self._kept.pop(kind_id, None)

    def clear(self) -> None:
        """The model is another one."""
        with self._lock:
            self._kept.clear()

    def learn_all(self, learn: Callable[[tuple[Any, ...], dict[str, Any]], object]) -> None:
        """Has what is put off learned now, from calls like those that came. What the model raises, the next call of
        that kind is told."""
        while True:
            with self._lock:
                if not self._kept:
                    return
                kept = self._kept.pop(next(iter(self._kept)))
            args, kwargs = kept.call
            try:
                kept.ambient.run(functools.partial(learn, args, kwargs))
            except (Exception, SystemExit):
                log.debug("learning what was put off failed", exc_info=True)

    def notes(self) -> list[str]:
        """For explain()."""
        with self._lock:
            count = len(self._kept)
        if count == 0:
            return []
        kinds = "a kind of calls is" if count == 1 else f"{count} kinds of calls are"
        return [
            f"{kinds} not learned from yet, and run alone: that begins once they have taken {WORTH_SECONDS} s of "
            "processor time, with submit() or acall(), or with ready()"
        ]
