"""The thread that captures, behind the calls."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from torchpool import _core

log = logging.getLogger("torchpool")


class Capturer:
    """One thread that captures, while there is something to capture: one export at a time is load enough."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None

    def add(self, job: Callable[[], None]) -> None:
        """Has the thread call job() once, also when the interpreter ends. Raises RuntimeError, and forgets the job,
        where no thread can be started."""
        with self._lock:
            self._jobs.append(job)
            if self._thread is not None and self._thread.is_alive():
                return
            # Not a daemon: torch aborts the process when the interpreter goes away under it.
            thread = threading.Thread(target=self._serve, name="torchpool-capture", daemon=False)
            try:
                thread.start()
            except RuntimeError:
                self._jobs.remove(job)
                raise
            finally:
                self._thread = thread  # one that an interrupt kept from being waited for has started all the same

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._thread = None
                    return
                job = self._jobs.popleft()
            try:
                _core.run_inside(job)
            except BaseException:
                log.exception("a capture")
            del job
