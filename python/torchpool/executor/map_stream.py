"""`ex.map(predictor, ...)`: eager as the standard map, and fed as a predictor's own map is.

Who waits. A Pending is waited for by one thread at most. The iterating thread takes a call out of the deque before it
waits for it, without a lock; whoever drains puts a `_Shared` in the place of what it is to wait for. It counts places
from the right end, where nothing is added without the feeding lock; the left end only ever loses.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable
from typing import Any

from torchpool import _core
from torchpool.executor.backlog import seconds_left
from torchpool.executor.map_feed import MapFeed
from torchpool.predictor import Calls, mapping


class _Shared:
    """A Pending that several threads may wait for: one after the other."""

    def __init__(self, pending: Any) -> None:
        self._pending = pending
        self._lock = threading.Lock()

    def done(self) -> bool:
        return bool(self._pending.done())

    def cancel(self) -> bool:
        return bool(self._pending.cancel())

    def wait(self, timeout: float | None = None) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        if self._pending.done():
            return True
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            return bool(self._pending.done())
        try:
            return bool(self._pending.wait(seconds_left(until)))
        finally:
            self._lock.release()

    def result(self) -> Any:
        return self._pending.result()

    def get(self) -> Any:
        self.wait()
        return self._pending.result()


class MapStream(MapFeed):
    """The calls of one `ex.map(predictor, *iterables)`: made, started, and then iterated over once, by `results()`.

    Without `buffersize` start() reads the iterables, as the standard map does, and everything is computed whether it
    is iterated over or not; a deadline counts from there. With it they are read by whoever iterates, at most
    `buffersize` calls ahead, as in CPython 3.14, and a deadline counts from when a call is read. An array or tensor is
    taken by rows. All calls are made in the state (autocast, grad mode, context variables) of the thread that makes
    the stream. A call's exception is raised in its place; a predictor that is closed ends the results with Closed.

    timeout: seconds from here for all results.
    on_done(stream): called once nothing is left to do, where that is seen at once: the results were iterated over to
    the end, or drain() waited for them. Otherwise `finished` tells. May come from the garbage collector: it must take
    no lock.
    """

    def __init__(
        self,
        calls: Calls,
        iterables: tuple[Iterable[Any], ...],
        *,
        timeout: float | None = None,
        buffersize: int | None = None,
        held: bool = False,
        on_done: Callable[[MapStream], None] | None = None,
    ) -> None:
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        super().__init__(calls, iterables, buffersize=buffersize, held=held)
        self._until = None if timeout is None else time.monotonic() + timeout
        self._on_done = on_done
        self._refusal: Exception | None = None
        self._awaited: Any = None  # the call that the iterating thread waits for
        self._cancelled = False
        self._taking = False  # the iterating thread has a call in hand
        self._takes = 0  # how many it had in hand, counted while somebody drains
        self._drains = 0
        self._drain_lock = threading.Lock()
        self._finished = False
        self._results: weakref.ref[Generator[Any, None, None]] | None = None

    def start(self) -> None:
        """Reads the iterables and feeds what finds room; never waits for room. Raises what they raise, and what
        read_no_more() was given meanwhile: what was read is cancelled then."""
        try:
            self._read()
            if self._refusal is not None:
                raise self._refusal
        except BaseException:
            self._input = None
            self.close()
            raise

    def read_no_more(self, error: Exception | None) -> None:
        """For an executor that is shut down (RuntimeError) or gone (None). A start() that still reads raises `error`;
        with `buffersize` iterating does, after the results of what was read. None ends the results there."""
        if self._input is not None:
            self._refusal = error
            self._stop(error)
        elif self._source is not None:
            self._source, self._tail = None, error
        self._tell()

    # --- iterating --------------------------------------------------------------------------------------------------

    def results(self) -> Generator[Any, None, None]:
        """The results in order; for one thread at a time. Closing it cancels what has not started; dropping it before
        it was started does not. Starts the stream, unless start() has. Requires: called once."""
        if self._input is not None:
            self.start()
        results = self._iterate()
        self._results = weakref.ref(results)
        return results

    def _iterate(self) -> Generator[Any, None, None]:
        try:
            in_order, take = self._in_order, self._take
            while in_order or self._wait_fed():
                yield take()
        finally:
            self.close()

    def _take(self) -> Any:
        in_order = self._in_order
        first = None
        self._taking = True
        try:
            first = self._awaited = in_order.popleft()
            if self._cancelled:  # by a thread that has not seen it in hand
                first.cancel()
            if len(in_order) <= self._refill_at and (self._waiting or self._source is not None):
                self._refill()
            if self._until is None:
                return first.get()
            if not first.wait(seconds_left(self._until)):
                raise TimeoutError
            return first.result()
        except BaseException:
            if first is not None:
                self._abandon(first)
            raise
        finally:
            first = self._awaited = None  # it holds the error, whose traceback holds this frame
            self._taking = False
            if self._drains:
                self._tell_taken()

    def _tell_taken(self) -> None:
        with self._cond:
            self._takes += 1
            self._cond.notify_all()

    def _wait_fed(self) -> bool:
        """Until there is a call to take; false when there will be none."""
        until = self._until
        while True:
            self._refill()
            left = self._left_to_feed()  # looked at first: what is fed meanwhile is in order by then
            if self._in_order:
                return True
            if not left:
                error, self._tail = self._tail, None
                if error is not None:
                    raise error
                return False
            self._wake_feeder()
            with self._cond:
                self._starving = True
                if not self._in_order and self._left_to_feed() and not self._cond.wait(seconds_left(until)):
                    raise TimeoutError
                self._starving = False

    # --- ending -----------------------------------------------------------------------------------------------------

    # Without a lock, places are looked at in the order in which calls pass through them: waiting, in order, in the hand
    # of the iterating thread, left running. What moves on meanwhile is seen twice, and never not at all.

    def _open_calls(self) -> list[Any]:
        return [call for call in itertools.chain(list(self._in_order), self._left_running) if not call.done()]

    @property
    def pending(self) -> int:
        waiting = self._accepted - self._fed if self._left_to_feed() else 0
        in_order = list(self._in_order)
        taking = int(self._taking)
        return waiting + taking + sum(not call.done() for call in itertools.chain(in_order, self._left_running))

    @property
    def finished(self) -> bool:
        """Nothing is pending, nor will be: only whoever iterates needs the stream."""
        if self._finished:
            return True
        if self._input is not None or self._left_to_feed():
            return False
        in_order = list(self._in_order)
        if self._taking or not all(call.done() for call in itertools.chain(reversed(in_order), self._left_running)):
            return False
        if self._source is not None and (self._results is None or self._results() is not None):
            return False  # with `buffersize`, and somebody may read on
        self._finish()
        return True

    def _finish(self) -> None:
        self._finished = True
        self._calls = self._source = None
        self._left_running.clear()
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(self)

    def close(self) -> None:
        """Cancels the calls that have not started. Idempotent."""
        self._stop(None)
        self._tail = None
        for call in reversed(list(self._in_order)):
            self._abandon(call)
        self._in_order.clear()
        _ = self.finished

    def cancel_waiting(self) -> None:
        """Cancels what has not started, here and in the predictor's queue: iterating raises CancelledError there."""
        self._cancelled = True
        self._stop(concurrent.futures.CancelledError())
        for call in reversed(list(self._in_order)):
            call.cancel()
        if (awaited := self._awaited) is not None:
            awaited.cancel()

    def break_(self, error: Exception) -> None:
        """Iterating raises `error` after the results of what the predictor has already."""
        self._stop(error)

    def drain(self, until: float | None = None) -> bool:
        """Waits until everything read is computed; False when `until`, of time.monotonic(), came first."""
        if not self._drain_lock.acquire(timeout=-1 if until is None else _seconds_to(until)):
            return False
        self._drains += 1  # under the lock of those who drain
        try:
            while self._wait_all_fed(until) and self._wait_all_done(until) and self._wait_taken(until):
                if not self._open_calls():
                    _ = self.finished
                    return True
            return False
        finally:
            self._drains -= 1
            self._drain_lock.release()

    def _wait_all_fed(self, until: float | None) -> bool:
        while self._left_to_feed():
            with self._cond:
                if not self._cond.wait_for(self._needs_nobody, seconds_left(until)):
                    return False
            if self._left_to_feed():  # no thread could be started that does it
                with self._feeding:
                    self._feed_in_state(self._ahead, block=True)
        return True

    def _needs_nobody(self) -> bool:
        return not self._left_to_feed() or (self._hungry and self._feeder is None and not self._held)

    def _wait_all_done(self, until: float | None) -> bool:
        if not self._feeding.acquire(timeout=-1 if until is None else _seconds_to(until)):
            return False
        try:
            calls = [*self._share(), *self._left_running]
        finally:
            self._feeding.release()
        return all(call.wait(seconds_left(until)) for call in calls)

    def _share(self) -> list[_Shared]:
        """What is fed, not done and not taken, now ready to be waited for here too. Requires the feeding lock."""
        calls = list(self._in_order)
        shared = []
        for place in range(-len(calls), 0):
            call = calls[place]
            if call.done():
                continue
            if not isinstance(call, _Shared):
                call = _Shared(call)
                try:
                    self._in_order[place] = call
                except IndexError:  # the iterating thread has taken it: _wait_taken() sees to it
                    continue
            shared.append(call)
        return shared

    def _wait_taken(self, until: float | None) -> bool:
        """Until the iterating thread is done with the call that it has in hand now."""
        with self._cond:
            takes = self._takes
            return self._cond.wait_for(lambda: not self._taking or self._takes != takes, seconds_left(until))

    def after_fork_in_child(self, error: Exception) -> None:
        self._restart()
        self._feeding, self._drain_lock = threading.Lock(), threading.Lock()
        self._drains, self._taking, self._marker = 0, False, None
        if self._left_to_feed():
            self._stop(error)
        for place, call in enumerate(self._in_order):
            if not call.done():
                _core.leak(call)  # its request belongs to threads that are gone
                self._in_order[place] = mapping.Failed(error)
        for call in self._left_running:
            _core.leak(call)
        self._left_running.clear()


def _seconds_to(until: float) -> float:
    return max(0.0, until - time.monotonic())
