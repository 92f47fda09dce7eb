"""Runs a function at a fixed rate."""

from __future__ import annotations

import concurrent.futures
import logging
import math
import numbers
import threading
from collections.abc import Callable, Mapping
from typing import Any

from torchpool.executor.timer import Entry, Timer, default_timer

log = logging.getLogger("torchpool")

Post = Callable[[Callable[[], None]], "concurrent.futures.Future[Any]"]


class Periodic:
    """The handle of `executor.every(interval, fn, *args)`.

    Runs start on the grid start + k * interval, k = 1, 2, ...: the first one after one interval, as with APScheduler's
    interval trigger (Java's scheduleAtFixedRate asks for the delay), and none drifts with the time that runs take. Runs
    do not overlap: when one is still waiting or running at the next moment, that moment is skipped, and so are those
    that passed unseen while the machine slept. What fn raises is logged and counted, and the schedule goes on. It goes
    on when the handle is dropped, too; it ends with cancel(), or with the executor.

    post: submits a run, on the timer's thread, and returns its future; raises RuntimeError when there is no executor
    any more, or none that takes work. It must not hold the executor.
    interval: seconds.
    """

    def __init__(
        self,
        post: Post,
        interval: float,
        fn: Callable[..., object],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timer: Timer | None = None,
    ) -> None:
        _check_interval(interval)
        if not callable(fn):
            raise TypeError(f"fn must be callable, got {fn!r}")
        self._post = post
        self._interval = float(interval)
        self._fn, self._args, self._kwargs = fn, args, dict(kwargs or {})
        self._timer = timer or default_timer()
        self._lock = threading.RLock()  # reentrant: a finalizer may cancel at any allocation
        self._ended = False
        self._runs = self._skipped = self._failures = 0
        self._last: concurrent.futures.Future[Any] | None = None
        self._moment = 0  # k of the last moment that was set
        self._start = self._timer.now()
        self._entry: Entry | None = None
        self._set_next(self._start)

    @property
    def interval(self) -> float:
        """Seconds from one moment to the next."""
        return self._interval

    @property
    def runs(self) -> int:
        """How many have started."""
        return self._runs

    @property
    def skipped(self) -> int:
        """Moments at which none started, because an earlier one was not over or the moment passed unseen."""
        return self._skipped

    @property
    def failures(self) -> int:
        """Runs in which fn raised."""
        return self._failures

    @property
    def cancelled(self) -> bool:
        """No run will start any more: cancel() was called, or the executor is gone or takes no more work."""
        return self._ended

    def cancel(self) -> bool:
        """No run starts once this has returned; one that runs is not interrupted. True when this ended the schedule,
        False when it had ended before."""
        with self._lock:
            ended, self._ended = self._ended, True
            entry, self._entry = self._entry, None
            last, self._last = self._last, None
        if entry is not None:
            entry.cancel()
        if last is not None:
            last.cancel()  # where it still waits
        return not ended

    def _set_next(self, now: float) -> None:
        """The first moment after `now`; those before it that were not seen count as skipped."""
        moment = max(self._moment, math.floor((now - self._start) / self._interval)) + 1
        while self._start + moment * self._interval <= now:  # where the division was rounded down
            moment += 1
        with self._lock:
            if self._ended:
                return
            self._skipped += moment - self._moment - 1
            self._moment = moment
            self._entry = self._timer.call_at(self._start + moment * self._interval, self._due)

    def _due(self) -> None:
        """On the timer's thread."""
        try:
            self._set_next(self._timer.now())
        except RuntimeError:  # the timer is closed
            self.cancel()
            return
        with self._lock:
            last = self._last
            if self._ended:
                return
            if last is not None and not last.done():
                self._skipped += 1
                return
        try:
            future = self._post(self._run)
        except RuntimeError:  # also BrokenThreadPool
            self.cancel()
            return
        if not self._keep(future):
            future.cancel()

    def _keep(self, future: concurrent.futures.Future[Any]) -> bool:
        with self._lock:
            if not self._ended:
                self._last = future
            return not self._ended

    def _run(self) -> None:
        """On a thread of the executor."""
        with self._lock:
            if self._ended:
                return
            self._runs += 1
        try:
            self._fn(*self._args, **self._kwargs)
        except BaseException:  # as the standard's workers, which SystemExit does not end either
            with self._lock:
                self._failures += 1
            log.exception("a run of %r", self)

    def __repr__(self) -> str:
        name = getattr(self._fn, "__qualname__", None) or repr(self._fn)
        state = " cancelled" if self._ended else ""
        counts = f"runs={self._runs}, skipped={self._skipped}, failures={self._failures}"
        return f"<torchpool.Periodic {name} every {self._interval:g} s, {counts}{state}>"


def _check_interval(interval: Any) -> None:
    if not isinstance(interval, numbers.Real):
        raise TypeError(f"interval must be a number of seconds, got {interval!r}")
    if not (math.isfinite(interval) and float(interval) > 0):
        raise ValueError(f"interval must be a positive, finite number of seconds, got {interval!r}")
