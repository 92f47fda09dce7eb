"""Awaiting calls: one wake-up of the event loop for all calls of a batch."""

from __future__ import annotations

import asyncio
from typing import Any

from torchpool import _core
from torchpool.futures import without_our_frame


class Awaited:
    """One awaited call. Its future belongs to its loop and is touched on the loop's thread only."""

    __slots__ = ("_pending", "future", "loop")

    _pending: _core.Pending | None  # set by the extension; given up once it is settled, since it holds the inputs

    def __init__(self) -> None:
        self._pending = None
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    def settle(self) -> None:
        """Hands the outcome to the future; on the loop's thread."""
        pending, self._pending = self._pending, None
        if pending is None or self.future.done():  # cancelled meanwhile
            return
        try:
            result = pending.result()
        except StopIteration as error:  # a future refuses it, as a coroutine would
            self.future.set_exception(RuntimeError(f"the model raised StopIteration({error.value!r})"))
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            self.future.cancel()
        except BaseException as error:
            self.future.set_exception(without_our_frame(error))
        else:
            self.future.set_result(result)

    async def wait(self) -> Any:
        """The outcome; cancelling the task takes the call out of its queue."""
        try:
            return await self.future
        finally:
            if self._pending is not None and self.future.cancelled():
                self._pending.cancel()


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
