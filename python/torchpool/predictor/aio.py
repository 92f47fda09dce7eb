"""Awaiting many calls in order. A single one is awaited natively: see `_core.AwaitedCall`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any

from torchpool import _core

Started = _core.AwaitedCall | asyncio.Future[Any]


async def map_calls(
    start: Callable[[Any], Coroutine[Any, Any, Any]], items: Iterator[Any], ahead: int, return_exceptions: bool
) -> AsyncGenerator[Any, None]:
    """Results in order, with at most `ahead` calls in flight; what is left is cancelled when it is closed.

    `start` gives an AwaitedCall, or a coroutine for a call that takes a thread.
    """
    calls: deque[Started] = deque()
    input_error: Exception | None = None
    exhausted = False
    try:
        while True:
            while not exhausted and len(calls) < ahead:
                try:
                    item = next(items)
                except StopIteration:
                    exhausted = True
                except Exception as error:  # the caller's iterable failed: raised after the results before it
                    exhausted, input_error = True, error
                else:
                    calls.append(_started(start, item))
            if not calls:
                break
            try:
                result = await calls.popleft()
            except Exception as error:
                if not return_exceptions:
                    raise
                result = error
            yield result
        if input_error is not None:
            raise input_error
    finally:
        for call in calls:
            if not call.cancel() and not call.cancelled():
                call.exception()  # nobody asks for it any more
        tasks = [call for call in calls if isinstance(call, asyncio.Task)]
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)


def _started(start: Callable[[Any], Coroutine[Any, Any, Any]], item: Any) -> Started:
    """The call, on its way."""
    call = start(item)
    return call if isinstance(call, _core.AwaitedCall) else asyncio.ensure_future(call)
