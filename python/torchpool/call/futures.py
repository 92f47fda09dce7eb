"""Futures of submitted calls."""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import threading
from typing import Any

from torchpool import _core

log = logging.getLogger("torchpool")


class Future(concurrent.futures.Future[Any]):
    """A `concurrent.futures.Future` of one call; cancelling it frees its place in the predictor's queue."""

    # Set by the extension before the call is admitted. Dropped once the future is settled, since it holds the inputs.
    _pending: _core.Pending | None = None

    def cancel(self) -> bool:
        """True when the call had not started, and now never will; False once its batch runs or is done."""
        pending = self._pending
        if pending is None or self.done() or not pending.cancel():
            return self.cancelled()
        self._settle_cancelled()
        return True

    def running(self) -> bool:
        """True while the call's batch runs."""
        pending = self._pending
        return pending is not None and not self.done() and pending.running()

    def result(self, timeout: float | None = None) -> Any:
        """As concurrent.futures.Future.result. A task of a torchpool.ThreadPoolExecutor that calls this counts as
        waiting in a predictor, see `overlap` there."""
        parked = None if self.done() else _core.ParkedTask()
        try:
            return super().result(timeout)
        finally:
            del parked

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As concurrent.futures.Future.exception, and as result()."""
        parked = None if self.done() else _core.ParkedTask()
        try:
            return super().exception(timeout)
        finally:
            del parked

    def _invoke_callbacks(self) -> None:
        if self._done_callbacks and _core.on_worker_thread():  # type: ignore[attr-defined]
            _callbacks.run(self)
        else:
            super()._invoke_callbacks()  # type: ignore[misc]

    def _run_callbacks(self) -> None:
        super()._invoke_callbacks()  # type: ignore[misc]

    def _settle_cancelled(self) -> None:
        super().cancel()
        with self._condition:  # the notifier's thread and a cancelling thread may both come here
            if self._state == "CANCELLED":  # only this second step tells concurrent.futures.wait() of a cancellation
                self.set_running_or_notify_cancel()

    def _settle(self) -> None:
        """Takes over the call's outcome: on the notifier's thread, or at once where the outcome is there already."""
        pending, self._pending = self._pending, None
        assert pending is not None
        if pending.cancelled():
            self._settle_cancelled()
            return
        try:
            result = pending.result()
        except BaseException as error:
            self.set_exception(without_our_frame(error))
        else:
            self.set_result(result)


class _Callbacks:
    """Runs callbacks on a thread of its own: a callback that is slow, or waits for a future, delays no settling."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Future | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, future: Future) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="torchpool-callbacks", daemon=True)
                self._thread.start()
        self._waiting.put(future)

    def _serve(self) -> None:
        while (future := self._waiting.get()) is not None:
            try:
                future._run_callbacks()
            except BaseException:  # the standard's own loop does not catch what is no Exception
                log.exception("a callback of %r", future)
            del future

    def finish(self) -> None:
        """Runs waiting callbacks and ends the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join()


_callbacks = _Callbacks()


def finish_callbacks() -> None:
    """At exit, once every future is settled."""
    _callbacks.finish()


def after_fork_in_child() -> None:
    """Starts afresh: the callbacks' thread did not survive the fork, and its lock may be held."""
    global _callbacks
    _callbacks = _Callbacks()


def without_our_frame(error: BaseException) -> BaseException:
    """The error without the frame that has just caught it: the frame would keep other calls of its lot alive."""
    return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)


def notify(done: list[Any]) -> None:
    """Settles finished calls. The extension calls this on its own thread, with all that finished since last time."""
    for item in done:
        try:
            item._settle()
        except Exception:
            log.exception("settling %r", item)
