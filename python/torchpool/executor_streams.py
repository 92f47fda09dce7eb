"""All that an executor has sent into predictors and is to see through."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from torchpool.map_stream import MapStream
from torchpool.predictor import Calls, Predictor
from torchpool.streams import Stream, SubmitStream

_Kind = tuple[int, float | None]  # priority and deadline


class Streams:
    """The streams of one executor. `held`: nothing goes to a predictor before release()."""

    def __init__(self, *, held: bool) -> None:
        self.held = held
        self._lock = threading.Lock()
        self._submits: weakref.WeakKeyDictionary[Predictor, dict[_Kind, SubmitStream]] = weakref.WeakKeyDictionary()
        self._busy: set[SubmitStream] = set()  # with something pending: kept, whoever has dropped the predictor
        self._maps: set[MapStream] = set()

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
                stream = of_predictor[kind] = SubmitStream(held=self.held, on_empty=self._busy.discard)
        future = stream.submit(calls, args, kwargs)
        if stream.pending:
            self._busy.add(stream)
            if not stream.pending:  # resolved meanwhile
                self._busy.discard(stream)
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
            on_done=self._maps.discard,
        )
        for other in list(self._maps):
            if other.finished:
                self._maps.discard(other)
        if not stream.finished:
            self._maps.add(stream)
            if stream.finished:
                self._maps.discard(stream)
        return stream.results()

    def _all(self) -> list[Stream]:
        return [*list(self._busy), *list(self._maps)]

    @property
    def pending(self) -> int:
        """Calls accepted and not resolved."""
        return sum(stream.pending for stream in self._all())

    def release(self) -> None:
        """Sends what was held back."""
        with self._lock:
            if not self.held:
                return
            self.held = False
            streams = [stream for of_predictor in self._submits.values() for stream in of_predictor.values()]
        for stream in {*streams, *self._all()}:
            stream.release()

    def end(self) -> None:
        """Maps that read their input as they are iterated over read no more: the executor was shut down."""
        for stream in list(self._maps):
            stream.read_no_more(RuntimeError("cannot schedule new futures after shutdown"))

    def drain(self) -> None:
        """Waits until everything accepted is resolved."""
        while streams := self._all():
            for stream in streams:
                stream.drain()
                self._busy.discard(stream)
                self._maps.discard(stream)

    def cancel_waiting(self) -> None:
        """Cancels what has not started."""
        for stream in self._all():
            stream.cancel_waiting()

    def fail(self, error: Callable[[], Exception]) -> None:
        """Fails what no predictor has yet."""
        for stream in self._all():
            stream.break_(error())

    def after_fork(self, error: Callable[[], Exception]) -> None:
        """In a forked child: what is pending belongs to the parent's threads."""
        self._lock = threading.Lock()
        for stream in self._all():
            stream.after_fork_in_child(error())
        self._busy.clear()
        self._maps.clear()
        self._submits = weakref.WeakKeyDictionary()


def _at(calls: Calls, priority: int, deadline: float | None) -> Calls:
    if priority == 0 and deadline is None:
        return calls
    return calls._predictor.options(
        priority=priority or calls._priority, deadline=calls._deadline if deadline is None else deadline
    )
