"""Which threads are at the first run of what they learn: until it is over, nothing is known of the module.

It may draw by a seed of each call's own, or have state: then another thread's run beside it would give either of them
what belongs to the other.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_PATIENCE_SECONDS = 3.0  # a run may itself wait for what another thread is to do next


class FirstRuns:
    """Thread-safe."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """The calling thread learns, inside."""
        own = threading.get_ident()
        outer = own in self._since
        if not outer:
            self._since[own] = time.monotonic()
        try:
            yield
        finally:
            if not outer:
                self._since.pop(own, None)

    def noted(self, run: Callable[P, T], harmless: Callable[[], bool]) -> Callable[P, T]:
        """The run, after which the calling thread's first one is over if it was harmless: it did not draw."""

        def made(*args: P.args, **kwargs: P.kwargs) -> T:
            result = run(*args, **kwargs)
            if harmless():
                self._since.pop(threading.get_ident(), None)
            return result

        return made

    def after_fork_in_child(self) -> None:
        """The threads of before are gone."""
        self._since.clear()

    def under_way(self) -> bool:
        """Whether a thread is at one, and has not been for long."""
        latest = time.monotonic() - _PATIENCE_SECONDS
        return any(since > latest for since in list(self._since.values()))
