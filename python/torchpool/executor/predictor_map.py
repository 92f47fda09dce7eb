"""`ex.map(predictor, ...)`: eager as the standard map, with a bounded number of calls on their way.

What feeds it. The inputs are read at the call; as many calls as the look-ahead line up there, the others wait as
references to their inputs. From then on each call that ends when few are on their way brings the next ones, on the
resolver's thread (`CallWindow`): nobody needs to iterate, and no thread waits. So: calls wait => more than the
low-water mark are on their way, or somebody feeds.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch

from torchpool import _core
from torchpool.call import Ambient, Future, must_stay_here, without_our_frame
from torchpool.predictor import Calls, mapping

_AT_ONCE = (list, tuple, range, torch.Tensor, np.ndarray)  # read in no time, so that nothing is fed meanwhile
_Args = tuple[Any, ...]
_Input = mapping.Input


class Sender(Protocol):
    """What a map needs of `PredictorCalls`, of the executor whose map it is."""

    @property
    def group(self) -> _core.CallGroup: ...

    def start(
        self,
        calls: Calls,
        args: _Args,
        kwargs: dict[str, Any] | None,
        deadline: float | None,
        window: _core.CallWindow | None = None,
        ambient: Ambient | None = None,
        *,
        here: bool = True,
        late: bool = False,
    ) -> Future:
        """A future of one call, on its way."""

    def start_each(
        self, calls: Calls, each: list[_Args], deadline: float | None, window: _core.CallWindow, here: bool
    ) -> list[Future]:
        """Futures of the first of these, of all that is started at once."""


class PredictorMap:
    """The calls of one map: made, read once by read(), and iterated over once, by results().

    Without `buffersize` read() reads the iterables, as the standard map does; a deadline counts from there. With it
    they are read by whoever iterates, at most `buffersize` calls ahead, as in CPython 3.14, and a deadline counts from
    when a call is read. An array or tensor is taken by rows. All calls are made in the state (autocast, grad mode,
    context variables) of the thread that makes the map. A call's exception is raised in its place; a predictor that is
    closed ends the results with Closed. `timeout`: seconds from here for all results.
    """

    def __init__(
        self,
        sender: Sender,
        calls: Calls,
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        buffersize: int | None,
    ) -> None:
        self._sender = sender
        self._group = sender.group
        self._calls: Calls | None = calls  # until all is sent: what is on its way holds its predictor itself
        self._until = None if timeout is None else time.monotonic() + timeout
        self._deadline = calls._deadline
        self._expires = None if self._deadline is None else time.monotonic() + self._deadline
        self._ambient = Ambient()
        self._here = must_stay_here()  # calls cannot be made by another thread
        self._ahead = calls._calls_ahead(buffersize)
        self._window = _core.CallWindow(mapping.refill_at(self._ahead))

        self._rows: Iterator[_Input] = calls._inputs().map(iterables)
        self._read_at_once = all(isinstance(iterable, _AT_ONCE) for iterable in iterables)
        self._lazy = buffersize is not None
        self._reading = True  # more may be read

        self._feeding = (
            threading.Lock()
        )  # held by whoever takes calls from `_waiting`, until their futures are in order
        self._deciding = threading.RLock()  # whether read() is over when the executor is shut down
        self._waiting: deque[_Input] = deque()  # read and not sent
        self._in_hand: list[_Input] = []  # taken from `_waiting` by whoever feeds, and not all sent
        self._accepted = _core.AcceptedCalls(self._group, self._waiting, self._in_hand)
        self._in_order: deque[Future] = deque()  # sent and not taken
        self._tail: BaseException | None = None  # raised after the results
        self._refusal: Exception | None = None  # raised by read()
        self._stopped = False  # nothing more is sent
        self._closed = False  # nobody wants what was sent

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Reads the iterables and sends what the look-ahead allows; never waits for room. Raises what they raise, and
        what read_no_more() was given meanwhile: what was read is cancelled then."""
        try:
            if self._lazy:
                self._read_ahead()
                return
            self._window.set_on_low(self._on_low)
            if self._read_at_once:
                rows = list(self._rows)
                self._accept(rows)
                del rows
            else:
                for call in self._rows:  # may take its time: what was read is computed meanwhile
                    self._accept([call])
                    if self._stopped:
                        break
            with self._deciding:
                self._reading = False
                refusal = self._refusal
            if not self._waiting:
                self._all_sent()
            if refusal is not None:
                raise refusal
        except BaseException:
            self.close()
            raise

    def _accept(self, rows: list[_Input]) -> None:
        self._waiting.extend(rows)
        self._accepted.count()
        if self._stopped:  # by a thread that has not seen these
            self._drop_waiting()
        elif self._has_room():
            self._feed(here=True)

    def _read_ahead(self) -> None:
        """On the iterating thread, with `buffersize`."""
        while self._reading and len(self._in_order) < self._ahead:
            try:
                call = next(self._rows)
            except StopIteration:
                self._all_sent()
            except Exception as error:  # the caller's iterable failed: raised after the results before it
                self._tail = error
                self._all_sent()
            else:
                self._send_in_state(call)

    def _send_in_state(self, call: _Input) -> None:
        late = must_stay_here() and not self._here
        future = self._ambient.run(lambda: self._send(call, self._deadline, here=True, late=late))
        if future is not None:
            self._in_order.append(future)

    def read_no_more(self, error: Exception) -> None:
        """For an executor that is shut down. A read() that still reads raises `error`; with `buffersize` iterating
        does, after the results of what was read."""
        with self._deciding:
            if not self._reading:
                return
            self._refusal = error
        if self._lazy:
            self._tail = error
            self._all_sent()
        else:
            self.stop(error)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _on_low(self) -> None:
        """Mostly on a resolver's thread, else on that of whoever iterates. What keeps it from feeding, Ctrl-C or a lack
        of memory, ends the results: raised here it would reach nobody."""
        try:
            self._feed(here=False)
        except BaseException as error:
            self.stop(without_our_frame(error))

    def _has_room(self) -> bool:
        return self._window.in_flight < self._ahead or not self._in_order

    def _feed(self, *, here: bool) -> None:
        while self._waiting and self._has_room():
            if not self._feeding.acquire(blocking=False):
                return  # whoever has it looks again
            try:
                self._ambient.run(lambda: self._feed_in_state(here))
            finally:
                self._feeding.release()
            if self._closed:  # by a thread that has not seen these calls
                self.close()

    def _feed_in_state(self, here: bool) -> None:
        """Requires the feeding lock."""
        waiting, in_order = self._waiting, self._in_order
        moded = must_stay_here() and not self._here
        over = 0
        try:
            while waiting and self._has_room():
                lot = self._take_lot()
                left = None if self._expires is None else self._expires - time.monotonic()
                calls = self._calls
                each = _positional(lot)
                started = self._sender.start_each(calls, each, left, self._window, here) if calls and not moded else []
                in_order.extend(started)
                for call in lot[len(started) :]:
                    # Many that are over at once, refused ones, are not to keep a resolver from its work.
                    late = moded or (not here and over >= self._ahead)
                    future = self._send(call, left, here=here, late=late)
                    if future is None:
                        break
                    in_order.append(future)
                    over += future.done()
        finally:
            self._in_hand.clear()
            self._accepted.count()
        if not self._reading and not waiting:
            self._all_sent()

    def _take_lot(self) -> list[_Input]:
        """As many of those that wait as there is room for; in hand until they are sent."""
        self._in_hand.clear()  # the lot before
        try:
            for _ in range(max(1, self._ahead - self._window.in_flight)):
                self._in_hand.append(self._waiting.popleft())
        except IndexError:  # they are fewer
            pass
        self._accepted.count()
        return self._in_hand

    def _send(self, call: _Input, deadline: float | None, *, here: bool, late: bool) -> Future | None:
        """None where no more calls are taken."""
        calls = self._calls
        if calls is None:
            return None
        if isinstance(call, mapping.Settled):
            return _settled(call)
        args, kwargs = (call, None) if isinstance(call, tuple) else ((), call)
        ambient = self._ambient if late else None
        try:
            here = here and not late
            return self._sender.start(calls, args, kwargs, deadline, self._window, ambient, here=here, late=late)
        except _core.Closed as error:
            self.stop(without_our_frame(error))
            return None
        except Exception as error:
            return _core.failed_future(without_our_frame(without_our_frame(error)))

    def _all_sent(self) -> None:
        """Nothing is left to send, so that nobody needs to bring it. Idempotent."""
        self._reading = False
        self._calls = None
        self._rows = iter(())
        self._window.set_on_low(None)

    # --- iterating --------------------------------------------------------------------------------------------------

    def results(self) -> Generator[Any, None, None]:
        """The results in order; for one thread at a time. Closing it cancels what has not started; dropping it before
        it was started does not. Requires: called once."""
        in_order, until, take = self._in_order, self._until, _core.take_result_or_cancel
        try:
            while in_order or self._has_next():
                yield self._take() if self._lazy else take(in_order.popleft(), until)
        finally:
            self.close()

    def _has_next(self) -> bool:
        """False, or what ends the results, where there is no further call."""
        if self._lazy:
            self._read_ahead()
        while not self._in_order:
            with self._feeding:  # what is taken from `_waiting` is in order once whoever feeds lets go of it
                waiting = bool(self._waiting)
            if self._in_order:
                break
            if not waiting:
                error, self._tail = self._tail, None
                if error is not None:
                    raise error
                return False
            self._feed(here=False)
        return True

    def _take(self) -> Any:
        future = self._in_order.popleft()
        try:
            if self._lazy:
                self._read_ahead()
            return _core.take_result_or_cancel(future, self._until)
        except BaseException:
            future.cancel()
            raise
        finally:
            del future  # it holds the error, whose traceback holds this frame

    # --- ending -----------------------------------------------------------------------------------------------------

    def stop(self, tail: BaseException | None) -> None:
        """Nothing more is sent; `tail` is raised after the results of what was."""
        if not self._stopped:
            self._tail = tail
            self._stopped = True
        self._drop_waiting()
        self._all_sent()

    def _drop_waiting(self) -> None:
        self._waiting.clear()
        self._accepted.count()

    def close(self) -> None:
        """Cancels the calls that have not started. Idempotent."""
        self._closed = True
        self.stop(None)
        self._tail = None
        while self._in_order:
            self._in_order.pop().cancel()

    def after_fork(self, error: Exception) -> None:
        """In a forked child: nobody sends what waits."""
        self._feeding, self._deciding = threading.Lock(), threading.RLock()
        self._in_hand.clear()  # of a thread that is gone
        if self._calls is not None:  # not all was sent
            self.stop(error)


def _positional(lot: list[_Input]) -> list[_Args]:
    """The first of these calls, as far as they have positional arguments only."""
    return [call for call in itertools.takewhile(lambda call: isinstance(call, tuple), lot) if isinstance(call, tuple)]


def _settled(outcome: mapping.Settled) -> Future:
    try:
        result = outcome.result()
    except Exception as error:
        return _core.failed_future(without_our_frame(without_our_frame(error)))
    done = Future()
    done.set_result(result)
    return done
