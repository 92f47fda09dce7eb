"""map and starmap: many calls in flight, results in order."""

from __future__ import annotations

import importlib
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from torchpool import _core
from torchpool.arguments import Call

Submit = Callable[..., _core.Pending]


def rows_of(iterable: Iterable[Any]) -> Iterable[Any]:
    """What map iterates over: an array is taken as a tensor, so that its rows are tensors too."""
    if isinstance(iterable, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(iterable))
    return iterable


class _Failed:
    """A call that was refused at once; takes the place of its Pending."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def done(self) -> bool:
        return True

    def wait(self, timeout: float | None = None) -> bool:
        return True

    def cancel(self) -> bool:
        return False

    def result(self) -> Any:
        raise self.error


class _Arrival:
    """Puts its call's Pending on a queue when it is done, for results out of order."""

    def __init__(self, arrived: queue.SimpleQueue[Any]) -> None:
        self._pending: Any = None
        self._arrived = arrived

    def _settle(self) -> None:
        self._arrived.put(self._pending)


class MapIterator:
    """Results of many calls. Keeps up to `ahead` calls in flight; closing it cancels those that have not started."""

    def __init__(
        self,
        submit: Submit,
        calls: Iterator[Call],
        *,
        ahead: int,
        timeout: float | None,
        ordered: bool,
        return_exceptions: bool,
        bar: Any = None,
    ) -> None:
        self._submit = submit
        self._calls = calls
        self._ahead = ahead
        self._until = None if timeout is None else time.monotonic() + timeout
        self._return_exceptions = return_exceptions
        self._bar = bar
        self._in_flight: deque[Any] = deque()
        self._arrived: queue.SimpleQueue[Any] | None = None if ordered else queue.SimpleQueue()
        self._input_error: Exception | None = None
        self._exhausted = False
        self._fill()

    def _fill(self) -> None:
        in_flight, submit = self._in_flight, self._submit
        while not self._exhausted and len(in_flight) < self._ahead:
            try:
                args, kwargs = next(self._calls)
            except StopIteration:
                self._exhausted = True
                return
            except Exception as error:  # the caller's iterable failed: raised after the results before it
                self._exhausted = True
                self._input_error = error
                return
            try:
                if self._arrived is None:
                    in_flight.append(submit(args, kwargs, block=True))
                else:
                    self._submit_unordered(args, kwargs)
            except _core.Closed:
                raise
            except Exception as error:
                self._refuse(_Failed(error))

    def _submit_unordered(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert self._arrived is not None
        pending = self._submit(args, kwargs, block=True, notified=_Arrival(self._arrived))
        self._in_flight.append(pending)
        if pending.ready:
            self._arrived.put(pending)

    def _refuse(self, failed: _Failed) -> None:
        self._in_flight.append(failed)
        if self._arrived is not None:
            self._arrived.put(failed)

    def __iter__(self) -> MapIterator:
        return self

    def __next__(self) -> Any:
        try:
            return self._next()
        except BaseException:
            self.close()
            raise

    def _next(self) -> Any:
        if not self._in_flight:
            self._fill()
        if not self._in_flight:
            if self._input_error is not None:
                error, self._input_error = self._input_error, None
                raise error
            raise StopIteration
        pending = self._take()
        self._fill()
        if self._bar is not None:
            self._bar.update()
        if not self._return_exceptions:
            return pending.result()
        try:
            return pending.result()
        except Exception as error:
            return error

    def _take(self) -> Any:
        left = None if self._until is None else max(0.0, self._until - time.monotonic())
        if self._arrived is None:
            if not self._in_flight[0].wait(left):
                raise TimeoutError
            return self._in_flight.popleft()
        try:
            pending = self._arrived.get(timeout=left)
        except queue.Empty:
            raise TimeoutError from None
        self._in_flight.remove(pending)
        return pending

    def close(self) -> None:
        """Cancels the calls that have not started, and takes nothing more from the input. Idempotent."""
        self._exhausted = True
        while self._in_flight:
            self._in_flight.pop().cancel()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __del__(self) -> None:
        if hasattr(self, "_in_flight"):
            self.close()


def progress_bar(total: int | None) -> Any:
    """tqdm's bar, for `progress=True`."""
    try:
        tqdm = importlib.import_module("tqdm.auto")
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    return tqdm.tqdm(total=total)
