"""Functions that the executor's native side calls: the standard's log messages, and a pause for other threads."""

from __future__ import annotations

import logging

_standard = logging.getLogger("concurrent.futures")
_own = logging.getLogger("torchpool")


def breathe() -> None:
    """Nothing: the interpreter hands its lock over, where another thread has asked for it, when this is entered."""


def callback_failed(error: BaseException, future: object) -> None:
    """Logs that a callback of a future raised. The other callbacks are called all the same."""
    _standard.error("exception calling callback for %r", future, exc_info=error)


def worker_failed(error: BaseException, future: object) -> None:
    """Something raised on a worker's thread that no future can be given; the thread goes on."""
    _standard.critical("Exception in worker", exc_info=error)


def thread_failed(error: BaseException, executor: object) -> None:
    """A thread more could not be started; those that are there do the work."""
    _own.warning("%r has fewer threads than it may have", executor, exc_info=error)
