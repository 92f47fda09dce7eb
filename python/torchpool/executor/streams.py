"""All that an executor has sent into predictors and is to see through."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from torchpool.executor.backlog import Stream, SubmitStream, join_feeders
from torchpool.executor.map_stream import MapStream
from torchpool.predictor import Callee, Calls

_EXIT_SECONDS = 2.0
_unfinished: set[Stream] = set()  # of all executors, also of those that were dropped
_Kind = tuple[int, float | None]  # priority and deadline


class Streams:
    """The streams of one executor. `held`: nothing goes to a predictor before release()."""

    def __init__(self, *, held: bool) -> None:
        self.held = held
        self._lock = threading.RLock()  # reentrant: a finalizer may submit at any allocation
        self._submits: weakref.WeakKeyDictionary[Callee, dict[_Kind, SubmitStream]] = weakref.WeakKeyDictionary()
        self._busy: set[Stream] = set()  # with something pending: kept, whoever has dropped the predictor

    def submit(
        self, calls: Calls, args: tuple[Any, ...], kwargs: dict[str, Any], priority: int, deadline: float | None
    ) -> Future[Any]:
        """A future of a predictor's call; an executor's priority and deadline come before a view's own."""
        calls = _at(calls, priority, deadline)
        kind = (calls._priority, calls._deadline)
        with self._lock:
            of_predictor = self._submits.setdefault(calls._predictor, {})
            stream = of_predictor.get(kind)
            if stream is None:
                stream = of_predictor[kind] = SubmitStream(held=self.held, on_empty=self._done)
        future = stream.submit(calls, args, kwargs)
        self._keep(stream, lambda: stream.pending == 0)
        return future

    def map(
        self,
        calls: Calls,
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        buffersize: int | None,
        priority: int,
        deadline: float | None,
    ) -> Iterator[Any]:
        """The results of a predictor's calls, in order; computed whether they are taken or not."""
        stream = MapStream(
            _at(calls, priority, deadline),
            iterables,
            timeout=timeout,
            buffersize=buffersize,
            held=self.held,
            on_done=self._done,
        )
        for other in list(self._busy):
            if isinstance(other, MapStream) and other.finished:
                self._done(other)
        self._keep(stream, lambda: stream.finished)
        return stream.results()

    def _keep(self, stream: Stream, done: Callable[[], bool]) -> None:
        if done():
            return
        self._busy.add(stream)
        _unfinished.add(stream)
        if done():  # meanwhile
            self._done(stream)

    def _done(self, stream: Stream) -> None:
        """On any thread, the garbage collector's among them: takes no lock."""
        self._busy.discard(stream)
        _unfinished.discard(stream)
        if stream.pending:  # of a call that came while the last one ended
            self._busy.add(stream)
            _unfinished.add(stream)

    @property
    def pending(self) -> int:
        """Calls accepted and not resolved."""
        return sum(stream.pending for stream in list(self._busy))

    def release(self) -> None:
        """Sends what was held back."""
        with self._lock:
            if not self.held:
                return
            self.held = False
            streams = [stream for of_predictor in self._submits.values() for stream in of_predictor.values()]
        for stream in {*streams, *self._busy}:
            stream.release()

    def end(self) -> None:
        """Maps that read their input as they are iterated over read no more: the executor was shut down."""
        for stream in list(self._busy):
            if isinstance(stream, MapStream):
                stream.read_no_more(RuntimeError("cannot schedule new futures after shutdown"))

    def drain(self) -> None:
        """Waits until everything accepted is resolved."""
        _drain(self._busy)

    def cancel_waiting(self) -> None:
        """Cancels what has not started."""
        for stream in list(self._busy):
            stream.cancel_waiting()

    def fail(self, error: Callable[[], Exception]) -> None:
        """Fails what no predictor has yet."""
        for stream in list(self._busy):
            stream.break_(error())

    def after_fork(self, error: Callable[[], Exception]) -> None:
        """In a forked child: what is pending belongs to the parent's threads."""
        self._lock = threading.RLock()
        for stream in list(self._busy):
            stream.after_fork_in_child(error())
            self._done(stream)
        self._submits = weakref.WeakKeyDictionary()


def _drain(streams: set[Stream]) -> None:
    while unfinished := list(streams):
        for stream in unfinished:
            stream.drain()
            if not stream.pending:
                streams.discard(stream)


def finish_streams() -> None:
    """At exit: waits for what every executor has accepted."""
    _drain(_unfinished)
    join_feeders(_EXIT_SECONDS)


def _at(calls: Calls, priority: int, deadline: float | None) -> Calls:
    if priority == 0 and deadline is None:
        return calls
    return calls._predictor.options(
        priority=priority or calls._priority, deadline=calls._deadline if deadline is None else deadline
    )
