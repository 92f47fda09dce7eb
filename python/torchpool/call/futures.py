"""Futures of submitted calls."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from torchpool import _core

_log = logging.getLogger("concurrent.futures")

# A `concurrent.futures.Future` of one call; cancelling it frees its place in the predictor's queue. In a task of a
# torchpool.ThreadPoolExecutor result() and exception() count as waiting in a predictor, see `overlap` there.
Future = _core.Future
_Callback = Callable[[Future], object]


class _Callbacks:
    """Runs callbacks on a thread of its own: a callback that is slow, or waits for a future, delays no settling."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[Future, list[_Callback]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, future: Future, callbacks: list[_Callback]) -> None:
        try:
            with self._lock:
                self._start()
        except RuntimeError:  # too many threads, or the interpreter is at its end: slow ones are better than none
            _call_back(future, callbacks)
        else:
            self._waiting.put((future, callbacks))

    def _start(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(target=self._serve, name="torchpool-callbacks", daemon=True)
        try:
            thread.start()
        finally:
            self._thread = thread if thread.ident is not None else None  # an interrupted start is a start

    def _serve(self) -> None:
        while (item := self._waiting.get()) is not None:
            _call_back(*item)
            del item

    def finish(self) -> None:
        """Runs waiting callbacks and ends the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join()


def _call_back(future: Future, callbacks: list[_Callback]) -> None:
    for callback in callbacks:
        try:
            callback(future)
        except BaseException:  # the standard's own loop lets pass what is no Exception
            _log.exception("exception calling callback for %r", future)


_callbacks = _Callbacks()


def call_back_later(future: Future, callbacks: list[_Callback]) -> None:
    """Called by the extension where the calling thread must not wait."""
    _callbacks.run(future, callbacks)


def finish_callbacks() -> None:
    """At exit, once every future is settled."""
    _callbacks.finish()


def after_fork_in_child() -> None:
    """Starts afresh: the callbacks' thread did not survive the fork, and its lock may be held. Nor did those that
    were to resolve what is pending, which fails."""
    global _callbacks
    _callbacks = _Callbacks()
    _core.fail_lone_calls_after_fork(
        lambda: _core.Closed("submitted before the fork: the call belongs to the parent process")
    )


def without_our_frame(error: BaseException) -> BaseException:
    """The error without the frame that has just caught it: the frame would keep other calls of its lot alive."""
    return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
