"""The threads of an executor: how many, and what they run."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures.thread import BrokenThreadPool
from dataclasses import dataclass
from typing import Any

from torchpool import _core

BROKEN = "A thread initializer failed, the thread pool is not usable anymore"  # the standard's words
_log = logging.getLogger("concurrent.futures")


def default_workers() -> int:
    """As the standard executor of the running version of Python."""
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)  # the former from 3.13 on
    return min(32, (count() or 1) + 4)


@dataclass(frozen=True)
class Initializer:
    """What each thread runs before its first task, and who waits for that."""

    fn: Callable[..., object]
    args: tuple[Any, ...]
    succeeded: Callable[[], None]
    failed: Callable[[Callable[[], Exception]], None]
    """With what makes an exception for each that waits: nothing is run any more."""

    def run(self) -> bool:
        """Whether the thread may go on."""
        try:
            self.fn(*self.args)
        except BaseException:
            _log.critical("Exception in initializer:", exc_info=True)
            self.failed(lambda: BrokenThreadPool(BROKEN))
            return False
        self.succeeded()
        return True


def serve(
    worker: _core.PoolWorker,
    executor: Callable[[], Any],
    began: Callable[[threading.Thread], None],
    left: Callable[[threading.Thread], None],
    initializer: Initializer | None,
) -> None:
    """A thread's whole life. None of what it is given may hold its executor: one that is dropped is collected, which
    ends the thread. `executor` looks it up, and gives None once it is gone; `left` is told where there were too many
    threads."""
    began(threading.current_thread())
    if initializer is not None and not initializer.run():
        worker.leave()
        return
    del initializer
    if worker.run(executor):
        left(threading.current_thread())
