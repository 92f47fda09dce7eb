"""A clock for timers that tests turn by hand."""

from __future__ import annotations

import threading

from support import HANG

from torchpool.executor.timer import Clock


class ManualClock(Clock):
    """Of one timer. Starts at 1000 s."""

    def __init__(self) -> None:
        self._time = 1000.0
        self._changed = threading.Condition()
        self._waiting: threading.Condition | None = None  # what the timer's thread waits for

    def now(self) -> float:
        return self._time

    def wait(self, condition: threading.Condition, timeout: float | None) -> None:
        with self._changed:
            self._waiting = condition
            self._changed.notify_all()
        condition.wait(HANG)
        with self._changed:
            self._waiting = None

    def advance(self, seconds: float) -> None:
        """Returns when the timer's thread has called all that is due by then."""
        condition = self._wait_idle()
        with condition:
            self._time += seconds
            self._waiting = None  # so that it has to come again
            condition.notify_all()
        self._wait_idle()

    def _wait_idle(self) -> threading.Condition:
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting is not None, HANG), "the timer's thread does not wait"
            assert self._waiting is not None
            return self._waiting
