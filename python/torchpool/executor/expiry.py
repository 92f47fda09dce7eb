"""The deadlines of an executor's tasks."""

from __future__ import annotations

import math
import weakref

from torchpool import _core
from torchpool.executor.timer import default_timer


class Expiry:
    """Fails the tasks of a pool that should have started by now, on the timer's thread.

    The timer keeps it, and it keeps neither the executor nor the pool. Tasks that wait have a thread to wait for, which
    keeps the pool: they expire when their executor was dropped, too.
    """

    def __init__(self, pool: _core.TaskPool) -> None:
        self._pool = weakref.ref(pool)
        self.due = math.inf  # when it looks next

    def at(self, due: float) -> None:
        """A task that has to start by then was queued."""
        if due < self.due:
            before, self.due = self.due, due  # first: it may be called at once
            try:
                default_timer().call_at(due, self._expire)
            except BaseException:
                self.due = before
                raise

    def start(self) -> None:
        """Before such a task is queued: afterwards nothing may fail. Raises RuntimeError."""
        default_timer().start()

    def _expire(self) -> None:
        self.due = math.inf
        pool = self._pool()
        if pool is not None:
            self.at(pool.expire())
