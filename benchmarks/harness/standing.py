"""Contenders in processes of their own that stay up, so that their passes can be measured in turns."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

Prepare = Callable[..., Callable[[], Any]]
"""Makes all that a pass needs, and gives the pass."""

_CLOSING = 30  # seconds that a process may take to end by itself


@dataclass(frozen=True)
class Pass:
    """One pass of a contender."""

    seconds: float
    result: Any


def _stand(prepare: Prepare, args: tuple[Any, ...], parent: Connection) -> None:
    os.setpgid(0, 0)  # what a contender starts ends with it
    try:
        run = prepare(*args)
        parent.send(None)
        while parent.recv():
            start = time.perf_counter()
            result = run()
            parent.send(Pass(time.perf_counter() - start, result))
    except (EOFError, BrokenPipeError):  # nobody listens any more
        return
    except BaseException:
        with contextlib.suppress(BrokenPipeError):
            parent.send(traceback.format_exc())  # which is raised there


class Standing:
    """`prepare(*args)` in a new interpreter, and passes of what it gives, one at a time. A context manager."""

    def __init__(self, prepare: Prepare, *args: Any, limit: float | None = None, gently: bool = True) -> None:
        """Returns once it is prepared; raises RuntimeError with the traceback of what fails there.

        It has `limit` seconds for that, where one is given. Without `gently` the process is killed in the end, with all
        that it started: some libraries do not end by themselves.
        """
        context = multiprocessing.get_context("spawn")
        self._gently = gently
        self._parent, child = context.Pipe()
        # Not a daemon, which may have no children: a capture runs in one.
        self._process = context.Process(target=_stand, args=(prepare, args, child))
        self._process.start()
        child.close()
        try:
            self._receive(limit)
        except BaseException:
            self.close()
            raise

    def _receive(self, limit: float | None) -> Any:
        # A process that is gone leaves its end of the pipe to the ones that it has forked.
        if not wait([self._parent, self._process.sentinel], limit):
            self._kill()
            raise RuntimeError(f"it took more than {limit:.0f} s")
        try:
            answer = self._parent.recv() if self._parent.poll() else None
        except EOFError:
            answer = None
        if isinstance(answer, str):
            raise RuntimeError(f"it raised there:\n{answer}")
        if answer is None and not self._process.is_alive():
            raise RuntimeError(f"the process ended with {self._process.exitcode}")
        return answer

    def run(self, limit: float | None = None) -> Pass:
        """One pass, of at most so many seconds: else RuntimeError, and the process is gone."""
        self._parent.send(True)
        answer: Pass = self._receive(limit)
        return answer

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()  # which may not have become the first of its group yet
        self._process.join()

    def close(self) -> None:
        """Ends the process."""
        self._parent.close()
        if self._gently:
            self._process.join(_CLOSING)
        self._kill()

    def __enter__(self) -> Standing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
