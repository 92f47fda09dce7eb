"""Contenders in processes of their own that stay up, so that their passes can be measured in turns."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Prepare = Callable[..., Callable[[], Any]]
"""Makes all that a pass needs, and gives the pass."""


@dataclass(frozen=True)
class Pass:
    """One pass of a contender."""

    seconds: float
    result: Any


def _stand(prepare: Prepare, args: tuple[Any, ...], parent: Connection) -> None:
    try:
        run = prepare(*args)
        parent.send(None)
        while parent.recv():
            start = time.perf_counter()
            result = run()
            parent.send(Pass(time.perf_counter() - start, result))
    except EOFError:
        return
    except BaseException:
        parent.send(traceback.format_exc())
        raise


class Standing:
    """`prepare(*args)` in a new interpreter, and passes of what it gives, one at a time. A context manager."""

    def __init__(self, prepare: Prepare, *args: Any) -> None:
        """Returns once it is prepared; raises RuntimeError with the traceback of what fails there."""
        context = multiprocessing.get_context("spawn")
        self._parent, child = context.Pipe()
        # Not a daemon, which may have no children: a capture runs in one.
        self._process = context.Process(target=_stand, args=(prepare, args, child))
        self._process.start()
        child.close()
        self._receive()

    def _receive(self) -> Any:
        try:
            answer = self._parent.recv()
        except EOFError:
            raise RuntimeError(f"the process ended with {self._process.exitcode}") from None
        if isinstance(answer, str):
            raise RuntimeError(f"it raised there:\n{answer}")
        return answer

    def run(self) -> Pass:
        """One pass."""
        self._parent.send(True)
        answer: Pass = self._receive()
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._parent.close()
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()

    def __enter__(self) -> Standing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
