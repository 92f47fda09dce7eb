"""An executor seen at another priority and deadline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, Protocol


class Viewed(Protocol):
    """What a view needs of its executor."""

    def _submit_as(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        priority: int,
        deadline: float | None,
    ) -> Future[Any]: ...

    def _map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        buffersize: int | None,
        priority: int,
        deadline: float | None,
    ) -> Iterator[Any]: ...

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...


class ExecutorView(Executor):
    """The same executor, whose tasks have a priority and a deadline; made by `ThreadPoolExecutor.options`."""

    def __init__(self, executor: Viewed, priority: int, deadline: float | None) -> None:
        self._executor = executor
        self._priority = priority
        self._deadline = deadline

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As the executor's, at this priority; TimeoutError when it has not started by the deadline."""
        return self._executor._submit_as(fn, args, kwargs, self._priority, self._deadline)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """As the executor's, at this priority; each call's deadline counts from its submission."""
        return self._executor._map(fn, iterables, timeout, buffersize, self._priority, self._deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shuts the executor down."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)

    def __repr__(self) -> str:
        return f"<{self._executor!r} at priority={self._priority}, deadline={self._deadline}>"
