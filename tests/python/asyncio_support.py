"""Running coroutines in tests: never for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from support import HANG


def run(main: Coroutine[Any, Any, Any], new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> Any:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(asyncio.wait_for(main, HANG))


async def turns(count: int = 5) -> None:
    """Lets the loop go round, which it cannot while it is blocked."""
    for _ in range(count):
        await asyncio.sleep(0)


async def plainly(call: Coroutine[Any, Any, Any]) -> Any:
    return await call
