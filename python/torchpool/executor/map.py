"""The results of an executor's map."""

from __future__ import annotations

import collections
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

from torchpool import _core

SubmitAll = Callable[[Iterable[tuple[Any, ...]]], list[Future[Any]]]  # [] once its executor is gone


def by_submit(ref: weakref.ref[Executor], fn: Callable[..., Any]) -> SubmitAll:
    """By the executor's submit(), which a subclass or an instance has overridden."""

    def submit_all(calls: Iterable[tuple[Any, ...]]) -> list[Future[Any]]:
        executor = ref()
        return [] if executor is None else [executor.submit(fn, *args) for args in calls]

    return submit_all


def results(futures: list[Future[Any]], until: float | None) -> Iterator[Any]:
    """In order; what is not there by `until`, of time.monotonic(), raises TimeoutError. What is left is cancelled."""
    take = _core.take_result_or_cancel
    try:
        futures.reverse()  # popped from the end, so that nothing keeps a result that was taken
        while futures:
            yield take(futures.pop(), until)
    finally:
        for future in futures:
            future.cancel()


def buffered_results(
    submit_all: SubmitAll, calls: Iterator[tuple[Any, ...]], buffersize: int, until: float | None
) -> Iterator[Any]:
    """As results(), of at most `buffersize` calls ahead of those taken. The first are submitted here, at once."""
    waiting = collections.deque(submit_all(itertools.islice(calls, buffersize)))

    def generate() -> Iterator[Any]:
        try:
            while waiting:
                waiting.extend(submit_all(itertools.islice(calls, 1)))
                yield _core.take_result_or_cancel(waiting.popleft(), until)
        finally:
            for future in waiting:
                future.cancel()

    return generate()
