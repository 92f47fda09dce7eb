"""map and starmap: many calls in flight, results in order."""

from __future__ import annotations

import importlib
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torchpool import _core
from torchpool.call import without_our_frame

Submit = Callable[..., _core.Pending]
Feed = Callable[[tuple[Any, ...], dict[str, Any] | None], _core.Pending]


def refill_at(ahead: int) -> int:
    """How many calls are left in flight, of `ahead`, when more are submitted: some at a time, since one at a time would
    cost more than a small model's share of a batch."""
    return ahead - max(1, min(32, ahead // 4))


class Settled:
    """Takes the place of a Pending whose outcome is known."""

    def done(self) -> bool:
        return True

    def wait(self, timeout: float | None = None) -> bool:
        return True

    def cancel(self) -> bool:
        return False

    def result(self) -> Any:
        """The outcome: the result, or the error raised."""
        raise NotImplementedError


class Failed(Settled):
    """A call that was refused at once."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def result(self) -> Any:
        raise self.error

    get = result


class Done(Settled):
    """The result of a call, without the call's inputs, which its Pending would keep."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        return self._value

    get = result


class _Arrival:
    """A call whose result is taken when it is done, not in its turn."""

    _pending: Any  # set by the extension before the call is admitted

    def __init__(self, arrived: queue.SimpleQueue[_Arrival]) -> None:
        self._arrived = arrived

    def _settle(self) -> None:
        self._arrived.put(self)

    def cancel(self) -> bool:
        return bool(self._pending.cancel())

    def result(self) -> Any:
        return self._pending.result()


# Positional arguments, keyword arguments, or an outcome that is known without a call.
Input = tuple[Any, ...] | dict[str, Any] | Settled


@dataclass(frozen=True)
class AtOnce:
    """Inputs that are read in no time, without code of the user's: many are read and submitted at a time."""

    items: Iterator[Any]
    call_of: Callable[[Any], Input]
    submit: Callable[[_core.MapResults, tuple[Any, ...]], None]
    """To the end of the results."""
    submit_like: Callable[[_core.MapResults, Iterator[Any], int], tuple[Any] | None]
    """The next items, as far as they are like the one before them; the first other one."""


class MapIterator(_core.MapResults):
    """Results of many calls. Keeps up to `ahead` calls in flight; closing it cancels those that have not started."""

    def __init__(
        self,
        submit: Submit,
        feed: Feed,
        calls: Iterator[Input],
        *,
        ahead: int,
        timeout: float | None,
        ordered: bool,
        return_exceptions: bool,
        bar: Any = None,
        length_hint: int | None = None,
        at_once: AtOnce | None = None,
    ) -> None:
        """`at_once`: the same inputs as `calls`, which are then not read."""
        self._submit = submit
        self._feed = feed
        self._calls = calls
        self._at_once = at_once if ordered else None
        self._ahead = ahead
        self._refill_at = refill_at(ahead)
        self._until = None if timeout is None else time.monotonic() + timeout
        self._return_exceptions = return_exceptions
        self._bar = bar
        self._results = length_hint  # how many there are to be; None where nobody knows
        self._unordered: set[_Arrival] = set()
        self._arrived: queue.SimpleQueue[_Arrival] | None = None if ordered else queue.SimpleQueue()
        self._input_error: Exception | None = None
        self._exhausted = False
        self._plain = ordered and timeout is None and not return_exceptions and bar is None
        self._fill()

    def __length_hint__(self) -> int:
        """How many results are left, as far as the inputs say."""
        if self._exhausted:
            return self._in_flight()
        return NotImplemented if self._results is None else max(self._in_flight(), self._results - self._taken)

    def _in_flight(self) -> int:
        return self._queued() + len(self._unordered)

    def _fill(self) -> None:
        if self._at_once is not None:
            self._fill_at_once(self._at_once)
            return
        calls = self._calls
        for _ in range(0 if self._exhausted else self._ahead - self._in_flight()):
            try:
                call = next(calls)
            except StopIteration:
                self._exhausted = True
                return
            except Exception as error:  # the caller's iterable failed: raised after the results before it
                self._exhausted = True
                self._input_error = error
                return
            if not self._add(call):
                return

    def _fill_at_once(self, inputs: AtOnce) -> None:
        while not self._exhausted and (room := self._ahead - self._in_flight()) > 0:
            try:
                other = inputs.submit_like(self, inputs.items, room)
            except StopIteration:
                self._exhausted = True
                return
            if other is None or not self._add(inputs.call_of(other[0])):
                return

    def _add(self, call: Input) -> bool:
        """Submits the call, and keeps what it raises; False once the predictor is closed."""
        try:
            if isinstance(call, Settled):
                self._settle(call)
            elif self._arrived is not None:
                self._submit_unordered(call, self._arrived)
            elif not isinstance(call, tuple):
                self._put(self._feed((), call))
            elif self._at_once is not None:
                self._at_once.submit(self, call)
            else:
                self._put(self._feed(call, None))
        except _core.Closed as error:
            if not self._in_flight():
                raise
            self._exhausted = True
            self._input_error = error
            return False
        except Exception as error:
            self._settle(Failed(error))
        return True

    def _submit_unordered(self, call: tuple[Any, ...] | dict[str, Any], arrived: queue.SimpleQueue[_Arrival]) -> None:
        args, kwargs = (call, {}) if isinstance(call, tuple) else ((), call)
        arrival = _Arrival(arrived)
        pending = self._submit(args, kwargs, block=True, notified=arrival)
        self._unordered.add(arrival)
        if pending.ready:
            arrival._pending = pending
            arrival._settle()

    def _settle(self, outcome: Settled) -> None:
        """Puts what is known already in its place."""
        if self._arrived is None:
            self._put(outcome)
            return
        arrival = _Arrival(self._arrived)
        arrival._pending = outcome
        self._unordered.add(arrival)
        arrival._settle()

    def _next(self) -> Any:
        """A result, where not `_plain`, or where none is on its way. What it raises ends the map."""
        if not self._in_flight():
            self._fill()
        if not self._in_flight():
            if self._input_error is not None:
                error, self._input_error = self._input_error, None
                raise error
            raise StopIteration
        result_of = self._wait()
        self._taken += 1
        try:
            result = result_of()
        except Exception as error:
            if not self._return_exceptions:
                raise
            result = without_our_frame(error)
        finally:
            del result_of  # it holds the error, whose traceback holds this frame
        if self._in_flight() <= self._refill_at:
            self._fill()
        if self._bar is not None:
            self._bar.update()
        return result

    def _wait(self) -> Callable[[], Any]:
        """Until there is a result; what gives it."""
        left = None if self._until is None else max(0.0, self._until - time.monotonic())
        if self._arrived is None:
            if not self._wait_first(left):
                raise TimeoutError
            return self._take_first
        try:
            arrival = self._arrived.get(timeout=left)
        except queue.Empty:
            raise TimeoutError from None
        self._unordered.discard(arrival)
        return arrival.result

    def close(self) -> None:
        """Cancels the calls that have not started, and takes nothing more from the input. Idempotent."""
        self._exhausted = True
        self._input_error = None
        self._cancel_all()
        while self._unordered:
            self._unordered.pop().cancel()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __del__(self) -> None:
        if hasattr(self, "_exhausted"):
            self.close()


class SizedMapIterator(MapIterator):
    """Of inputs that all have a length."""

    def __len__(self) -> int:
        """How many results are left."""
        return self.__length_hint__()


def progress_bar(total: int | None) -> Any:
    """tqdm's bar, for `progress=True`."""
    try:
        tqdm = importlib.import_module("tqdm.auto")
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    return tqdm.tqdm(total=total)
