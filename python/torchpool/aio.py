"""Awaiting calls: one wake-up of the event loop for all calls of a batch."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any

from torchpool import _core
from torchpool.futures import without_our_frame


class Awaited:
    """One awaited call. Its future belongs to its loop and is touched on the loop's thread only."""

    __slots__ = ("_abandoned", "_pending", "future", "loop")

    _pending: _core.Pending | None  # set by the extension; given up once it is settled, since it holds the inputs

    def __init__(self) -> None:
        self._pending = None
        self._abandoned = False
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    def settle(self) -> None:
        """Hands the outcome to the future; on the loop's thread."""
        pending, self._pending = self._pending, None
        if pending is None or self._abandoned or self.future.done():  # cancelled meanwhile
            return
        try:
            result = pending.result()
        except StopIteration as error:  # a future refuses it, as a coroutine would
            self.future.set_exception(RuntimeError(f"the model raised StopIteration({error.value!r})"))
        except asyncio.CancelledError:
            self.future.cancel()
        except BaseException as error:
            self.future.set_exception(without_our_frame(error))
        else:
            self.future.set_result(result)

    async def wait(self) -> Any:
        """The outcome; cancelling the task takes the call out of its queue."""
        try:
            return await self.future
        except asyncio.CancelledError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Takes the call out of its queue, now or as soon as it is there."""
        self._abandoned = True
        if self._pending is not None:
            self._pending.cancel()
        if self.future.done() and not self.future.cancelled():
            self.future.exception()  # it came together with the cancellation: asyncio need not log that nobody asked

    def submit_when_there_is_room(self, submit: Callable[..., _core.Pending]) -> _core.Pending:
        """On a thread that may wait."""
        pending = submit(block=True)
        if self._abandoned:
            pending.cancel()
        return pending


async def call(submit: Callable[..., _core.Pending], *, reject: bool) -> Any:
    """Submits a call and awaits it. `submit` takes `notified`, and `reject` or `block` for a queue that is full."""
    awaited = Awaited()
    try:
        pending = submit(notified=awaited, to_loop=True, reject=True)
    except _core.QueueFull:
        if reject:
            raise
        try:
            blocking = functools.partial(submit, notified=awaited, to_loop=True)
            pending = await asyncio.to_thread(awaited.submit_when_there_is_room, blocking)
        except asyncio.CancelledError:
            awaited.abandon()
            raise
    if pending.ready:
        awaited._pending = pending
        awaited.settle()
    del pending  # it holds a failed call's exception, whose traceback holds this frame
    return await awaited.wait()


async def map_calls(
    call_one: Callable[[Any], Coroutine[Any, Any, Any]], items: Iterator[Any], ahead: int, return_exceptions: bool
) -> AsyncGenerator[Any, None]:
    """Results in order, with at most `ahead` calls in flight; what is left is cancelled when it is closed."""
    tasks: deque[asyncio.Task[Any]] = deque()
    input_error: Exception | None = None
    exhausted = False
    try:
        while True:
            while not exhausted and len(tasks) < ahead:
                try:
                    item = next(items)
                except StopIteration:
                    exhausted = True
                except Exception as error:  # the caller's iterable failed: raised after the results before it
                    exhausted, input_error = True, error
                else:
                    tasks.append(asyncio.ensure_future(call_one(item)))
            if not tasks:
                break
            try:
                result = await tasks.popleft()
            except Exception as error:
                if not return_exceptions:
                    raise
                result = error
            yield result
        if input_error is not None:
            raise input_error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def notify(done: list[Awaited]) -> None:
    """Wakes each loop once for all of its calls that are done: called by the extension on a thread of its own."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Awaited]] = {}
    for awaited in done:
        by_loop.setdefault(awaited.loop, []).append(awaited)
    for loop, lot in by_loop.items():
        if loop.is_closed():
            continue
        try:
            loop.call_soon_threadsafe(_settle_all, lot)
        except RuntimeError:  # closed since: nobody is left to be told
            if not loop.is_closed():
                raise


def _settle_all(lot: list[Awaited]) -> None:
    for awaited in lot:
        awaited.settle()
