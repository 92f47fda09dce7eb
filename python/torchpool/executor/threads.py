"""The threads of an executor: how many, and what they run."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures.thread import BrokenThreadPool
from typing import TYPE_CHECKING, Any

from torchpool import _core

if TYPE_CHECKING:
    from torchpool.executor.executor import ThreadPoolExecutor
    from torchpool.executor.streams import Streams

_BROKEN = "A thread initializer failed, the thread pool is not usable anymore"  # the standard's words
_log = logging.getLogger("concurrent.futures")


def default_workers() -> int:
    """As the standard executor of the running version of Python."""
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)  # the former from 3.13 on
    return min(32, (count() or 1) + 4)


def serve(
    worker: _core.PoolWorker,
    ref: weakref.ref[ThreadPoolExecutor],
    pool: _core.Pool,
    streams: Streams,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """A thread's whole life. Holds its executor weakly: one that is dropped is collected, which ends the thread."""
    executor = ref()
    if executor is not None:
        executor._note_thread(threading.current_thread())
    del executor
    if initializer is not None:
        try:
            initializer(*initargs)
        except BaseException:
            _log.critical("Exception in initializer:", exc_info=True)
            pool.mark_broken(_BROKEN)
            streams.fail(lambda: BrokenThreadPool(_BROKEN))
            worker.leave()
            return
        streams.release()
    del pool, streams, initializer, initargs
    superfluous = worker.run(ref)
    executor = ref() if superfluous else None
    if executor is not None:
        executor._forget_thread(threading.current_thread())
