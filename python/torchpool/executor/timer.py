"""Calls functions at given times, on one thread for the process."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

from torchpool.runtime import Child, in_child

log = logging.getLogger("torchpool")


class Clock:
    """Time as the timer sees it; tests put one of their own in its place."""

    def now(self) -> float:
        """Seconds of time.monotonic()."""
        return time.monotonic()

    def wait(self, condition: threading.Condition, timeout: float | None) -> None:
        """Waits for a notification, at most `timeout` seconds. Requires the condition's lock."""
        condition.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))


class Entry:
    """A call to come."""

    __slots__ = ("_fn", "_timer", "when")

    def __init__(self, timer: Timer, when: float, fn: Callable[[], object]) -> None:
        self._timer = timer
        self._fn: Callable[[], object] | None = fn  # None once it was called or cancelled
        self.when = when

    def cancel(self) -> bool:
        """True when the function had not been called, and now never will. Takes no lock that another thread may hold
        for long, and may be called by a finalizer."""
        fn = self._take()
        if fn is not None:
            self._timer._cancelled_one()
        return fn is not None

    def _take(self) -> Callable[[], object] | None:
        # One statement is not one step: of two threads only the one that clears it under the lock has taken it.
        with _taking:
            fn, self._fn = self._fn, None
            return fn


_taking = threading.RLock()  # reentrant: a finalizer may cancel an entry at any allocation


class Timer:
    """One daemon thread, started with the first entry. Thread-safe."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._numbers = itertools.count()  # entries of the same time are called in the order of their making
        self._start_afresh()

    def _start_afresh(self) -> None:
        # Not reentrant: a cancellation by a finalizer in the midst of a change of the heap finds it taken, and goes on.
        self._cond = threading.Condition(threading.Lock())
        self._heap: list[tuple[float, int, Entry]] = []
        self._dead = 0  # cancelled entries in the heap, or a few more
        self._thread: threading.Thread | None = None
        self._closed = False

    def now(self) -> float:
        """Seconds, on the clock of `call_at`."""
        return self._clock.now()

    def call_at(self, when: float, fn: Callable[[], object]) -> Entry:
        """Calls fn() at `when`, a time of time.monotonic(), or at once where that has passed; on the timer's thread, so
        that it must be quick. What it raises is logged. Raises RuntimeError once the timer is closed."""
        entry = Entry(self, when, fn)
        with self._cond:
            if self._closed:
                raise RuntimeError("the timer is closed")
            self._sweep()
            self._start_thread()
            heapq.heappush(self._heap, (when, next(self._numbers), entry))
            if self._heap[0][2] is entry:
                self._cond.notify()
        return entry

    def start(self) -> None:
        """Starts the thread, unless it runs: `call_at` does not fail afterwards. Raises RuntimeError where there are
        too many threads, and once the timer is closed."""
        with self._cond:
            if self._closed:
                raise RuntimeError("the timer is closed")
            self._start_thread()

    def _start_thread(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="torchpool-timer", daemon=True)
        try:
            thread.start()
        finally:
            self._thread = thread if thread.ident is not None else None  # an interrupted start is a start

    @property
    def entries(self) -> int:
        """How many are kept, cancelled ones that were not swept out yet among them."""
        return len(self._heap)

    def close(self) -> None:
        """Drops what is to come and ends the thread. Idempotent."""
        with self._cond:
            self._closed = True
            thread, self._thread = self._thread, None
            dropped, self._heap = self._heap, []
            self._cond.notify()
        del dropped  # without the lock: it may be the last to hold what has a finalizer
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def after_fork_in_child(self) -> None:
        """Drops what is to come, and starts afresh: the thread did not survive, and may have held the lock."""
        self._start_afresh()

    def _cancelled_one(self) -> None:
        self._dead += 1
        if self._cond.acquire(blocking=False):  # else whoever has it sweeps, or the next entry does
            try:
                self._sweep()
            finally:
                self._cond.release()

    def _sweep(self) -> None:
        """Requires the lock. Takes the cancelled entries out once they are more than half."""
        if 2 * self._dead > len(self._heap):
            self._dead = 0
            self._heap = [item for item in self._heap if item[2]._fn is not None]
            heapq.heapify(self._heap)

    def _run(self) -> None:
        while (fn := self._next()) is not None:
            try:
                fn()
            except BaseException:
                log.exception("a timer's call of %r", fn)
            del fn

    def _next(self) -> Callable[[], object] | None:
        """Waits until the first is due; None once the timer is closed."""
        with self._cond:
            while not self._closed:
                if not self._heap:
                    self._clock.wait(self._cond, None)
                    continue
                when, _, entry = self._heap[0]
                left = when - self._clock.now()
                if left > 0 and entry._fn is not None:
                    self._clock.wait(self._cond, left)
                    continue
                heapq.heappop(self._heap)
                if (fn := entry._take()) is not None:
                    return fn
                self._dead = max(0, self._dead - 1)
            return None


_lock = threading.Lock()
_default: Timer | None = None


def default_timer() -> Timer:
    """The process's own."""
    global _default
    with _lock:
        if _default is None:
            _default = Timer()
        return _default


def _after_fork() -> None:
    global _lock, _taking
    _lock, _taking = threading.Lock(), threading.RLock()
    if _default is not None:
        _default.after_fork_in_child()


in_child(Child.TIMERS, _after_fork)
