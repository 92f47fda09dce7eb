"""A predictor's calls that cannot line up at once: held, or of a kind that has to be learned from."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from torchpool import _core
from torchpool.call import Ambient, Future, without_our_frame
from torchpool.executor.timer import Entry, default_timer
from torchpool.predictor import Calls

_EXPIRED = "the deadline of the call passed before it was queued"
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class LateCall:
    """One of them, with a future that has no request yet. Made in the state of the thread that submits it."""

    def __init__(
        self,
        future: Future,
        calls: Calls,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        expires: float | None,
        ambient: Ambient | None,
    ) -> None:
        self.future = future
        self._calls = calls
        self._args = args
        self._kwargs = kwargs
        self._expires = expires
        self._ambient = ambient or Ambient()
        self._timer: Entry | None = None
        if expires is not None:
            self._timer = default_timer().call_at(expires, lambda: self.fail(TimeoutError(_EXPIRED)))

    def hand_over(self) -> None:
        """Gives it to its predictor, which may have to learn first. Whatever goes wrong is the call's outcome."""
        try:
            if self.future.done():
                self.fail(CancelledError())  # the group of a future that somebody else has ended lets it go
            else:
                self._ambient.run(self._hand_over)
        except BaseException as error:  # what a model raises in a run of the learner, SystemExit among it
            self.fail(error)
        finally:
            self.forget_deadline()

    def _seconds_left(self) -> float | None:
        """Raises TimeoutError where none are."""
        if self._expires is None:
            return None
        left = self._expires - time.monotonic()
        if left <= 0:
            raise TimeoutError(_EXPIRED)
        return left

    def _hand_over(self) -> None:
        calls = self._calls
        try:
            left = self._seconds_left()
            core = calls._predictor._open_core()
            core.hand_over(self.future, self._args, self._kwargs, calls._priority, left)
        except Exception as error:
            self.fail(without_our_frame(error))

    def fail(self, error: BaseException) -> None:
        """The outcome of a call that is not done and that its predictor does not have."""
        self.forget_deadline()
        _core.fail_call(self.future, error)

    def forget_deadline(self) -> None:
        """Else the timer would keep the call's inputs until then. The call is handed over, or will never be."""
        if self._timer is not None:
            self._timer.cancel()


class LateCalls:
    """Those of one predictor, handed over in order by a daemon thread that ends with them.

    `lock` guards them and is their owner's; `on_end` is called, with it held, when the last one is handed over.
    """

    def __init__(self, lock: Any, on_end: Callable[[LateCalls], object]) -> None:
        self._lock = lock
        self._on_end = on_end
        self._calls: deque[LateCall] = deque()  # the first of them is the one in hand
        self._thread: threading.Thread | None = None

    def add(self, call: LateCall, *, held: bool) -> None:
        """Requires the lock. Raises RuntimeError where the process may start no more threads."""
        self._calls.append(call)
        if held or self._thread is not None:
            return
        try:
            self._start()
        except BaseException:
            self._calls.remove(call)
            if not self._calls:
                self._on_end(self)
            raise

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name="torchpool-late-calls", daemon=True)
        _threads.add(thread)
        self._thread = thread
        try:
            thread.start()
        except BaseException:
            if thread.ident is None:  # should it start after all, it serves, and a second one would hand over twice
                self._thread = None
            raise

    def release(self) -> None:
        """Hands over what is held."""
        try:
            with self._lock:
                if self._calls and self._thread is None:
                    self._start()
        except RuntimeError:  # too many threads, or the interpreter is at its end: this one does it
            with self._lock:
                self._thread = threading.current_thread()  # so that nobody else does
            self._serve()

    def take_all(self) -> list[LateCall]:
        """Requires the lock. The calls, which are no longer these'; one that is just handed over among them."""
        calls = list(self._calls)
        self._calls.clear()
        return calls

    def _serve(self) -> None:
        while (call := self._first()) is not None:
            call.hand_over()
            with self._lock:
                if self._calls and self._calls[0] is call:
                    self._calls.popleft()
            del call

    def _first(self) -> LateCall | None:
        with self._lock:
            if self._calls:
                return self._calls[0]
            self._thread = None
            self._on_end(self)
            return None


def join_late_threads(seconds: float) -> None:
    """At exit, once everything is resolved: a daemon thread that still drops a tensor when the interpreter goes away
    aborts the process. One that runs a model for a call that was cancelled is not waited for longer."""
    until = time.monotonic() + seconds
    for thread in list(_threads):
        if thread.ident is not None:
            thread.join(max(0.0, until - time.monotonic()))
