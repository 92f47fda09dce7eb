"""Futures of submitted calls."""

from __future__ import annotations

import concurrent.futures
import logging
from typing import Any

from torchpool import _core

log = logging.getLogger("torchpool")


class Future(concurrent.futures.Future[Any]):
    """A `concurrent.futures.Future` of one call; cancelling it frees its place in the predictor's queue."""

    _pending: _core.Pending  # set by the extension before the call is admitted

    def cancel(self) -> bool:
        """True when the call had not started, and now never will; False once its batch runs or is done."""
        if self.cancelled():
            return True
        if self.done() or not self._pending.cancel():
            return False
        self._settle_cancelled()
        return True

    def running(self) -> bool:
        """True while the call's batch runs."""
        return not self.done() and self._pending.running()

    def _settle_cancelled(self) -> None:
        # Waiters of concurrent.futures.wait learn of it only by the second step.
        if super().cancel() and self._state == "CANCELLED":
            try:
                self.set_running_or_notify_cancel()
            except RuntimeError:  # the resolver's thread was quicker
                log.debug("a cancelled future was settled twice")

    def _settle(self) -> None:
        """Takes over the outcome of the call; on the thread that notifies, or at once where it is ready already."""
        if self._pending.cancelled():
            self._settle_cancelled()
            return
        try:
            result = self._pending.result()
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(result)


def notify(done: list[Any]) -> None:
    """Settles what is done: called by the extension on a thread of its own, with everything since the last time."""
    for item in done:
        try:
            item._settle()
        except Exception:
            log.exception("settling %r", item)
