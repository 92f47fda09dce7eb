"""Feeds the calls of one `ex.map(predictor, ...)` into the predictor.

Who feeds. The thread that iterates does, some calls at a time, as in `mapping.MapIterator`. Should it be slow, or not
iterate at all, a thread of the stream's own takes over. That is noticed without polling: of what is fed, one call in
every half of the look-ahead carries a marker. When the last marker that was fed is done and input is left, nobody has
fed for that long, and the stream's thread is woken; while the iterating thread keeps up, a later marker is always out.
So: calls wait => a marker is out, or somebody feeds, or the thread is about to.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from torchpool import _core
from torchpool.call import Ambient, must_stay_here, without_our_frame
from torchpool.executor.backlog import EXPIRED, Stream, log
from torchpool.predictor import Calls, mapping

_AT_ONCE = (list, tuple, range, torch.Tensor, np.ndarray)  # read in no time, so that nothing is fed meanwhile


class _Marker:
    """Told, on a resolver's thread, when the call that carries it is done. Can call it back before it has a place."""

    __slots__ = ("_handed", "_withdrawn", "done", "feed", "position")

    def __init__(self, feed: MapFeed, position: int) -> None:
        self._handed: _core.Pending | None = None
        self._withdrawn = False
        self.done = False
        self.feed = feed
        self.position = position

    @property
    def _pending(self) -> _core.Pending | None:
        return self._handed

    @_pending.setter
    def _pending(self, pending: _core.Pending) -> None:  # by the extension, before the call is admitted
        self._handed = pending
        if self._withdrawn:
            pending.cancel()

    def withdraw(self) -> None:
        self._withdrawn = True
        pending = self._handed
        if pending is not None:
            pending.cancel()

    def _settle(self) -> None:
        self._handed = None
        self.done = True
        self.feed._marker_done(self)


class MapFeed(Stream):
    """Calls that wait, and calls that are fed; the latter in order, for somebody to take them from the left."""

    def __init__(
        self, calls: Calls, iterables: tuple[Iterable[Any], ...], *, buffersize: int | None, held: bool
    ) -> None:
        super().__init__(held)
        self._calls: Calls | None = calls
        self._priority, self._deadline = calls._priority, calls._deadline
        self._ambient = Ambient()
        self._here = must_stay_here()  # calls cannot be handed over by another thread
        self._ahead = calls._calls_ahead(buffersize)
        self._half = max(1, self._ahead // 2)
        self._refill_at = mapping.refill_at(self._ahead)

        rows = zip(*(mapping.rows_of(iterable) for iterable in iterables), strict=False)
        self._input: Iterator[tuple[Any, ...]] | None = rows  # until start() has read it
        self._read_at_once = all(isinstance(iterable, _AT_ONCE) for iterable in iterables)
        self._lazy = buffersize is not None
        self._source: Iterator[tuple[Any, ...]] | None = None  # what is read by whoever iterates

        self._feeding = threading.Lock()  # held by whoever feeds
        # Calls that the predictor does not have yet, each with the time at which it expires.
        self._waiting: deque[tuple[tuple[Any, ...], float | None]] = deque()
        self._in_order: deque[Any] = (
            deque()
        )  # calls fed and not taken: a Pending, mapping.Failed, mapping.Done or _Shared
        self._accepted = 0  # calls read
        self._fed = 0  # calls that are or were in `_in_order`; written after the call is there
        self._next_mark = self._half
        self._marker: _Marker | None = None  # the last one that was fed, until it is done
        self._settled = 0  # up to this call everything is done, or nearly
        self._let_go = 0  # calls before this one were seen to by _let_inputs_go()
        self._in_hand: _Marker | None = None  # of the call that waits for room
        self._hungry = False  # the stream's thread is to feed
        self._starving = False  # the iterating thread waits for a call to be fed
        self._tail: BaseException | None = None  # raised after the results
        self._stopped = False  # nothing more is fed
        self._left_running: list[Any] = []  # calls that nobody waits for and that could not be cancelled any more

    # --- reading ----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        rows = self._input
        assert rows is not None
        expires = None if self._deadline is None else time.monotonic() + self._deadline
        if self._lazy:
            self._source, self._input = rows, None
            self._refill()
        elif self._read_at_once:
            self._waiting.extend(zip(rows, itertools.repeat(expires), strict=False))
            self._accepted, self._input = len(self._waiting), None
            self._feed_here(self._ahead)
        else:
            for args in rows:  # may take its time: what was read is computed meanwhile
                self._waiting.append((args, expires))
                self._accepted += 1
                room = self._settled + self._ahead - self._fed
                if self._feeder is None:
                    if room > 0 or self._marker is None:
                        self._feed_here(room)
                elif self._marker is None:  # it may just have seen that nothing waits
                    self._wake_feeder()
                if self._stopped:
                    break
            self._input = None
            if self._waiting and self._marker is None:
                self._wake_feeder()

    def _read_ahead(self) -> None:
        """On the iterating thread, with `buffersize`."""
        while (source := self._source) and len(self._in_order) + len(self._waiting) < self._ahead and not self._stopped:
            try:
                args = next(source)
            except StopIteration:
                self._source = None
            except Exception as error:  # the caller's iterable failed: raised after the results before it
                self._source, self._tail = None, error
            else:
                self._waiting.append((args, None if self._deadline is None else time.monotonic() + self._deadline))
                self._accepted += 1

    # --- feeding ----------------------------------------------------------------------------------------------------

    def _refill(self) -> None:
        if self._source is not None:
            self._read_ahead()
        if self._waiting:
            self._feed_here(self._ahead - len(self._in_order))

    def _feed_here(self, most: int) -> None:
        """Feeds what finds room at once; the stream's own thread feeds the rest."""
        if self._held or not self._feeding.acquire(blocking=False):
            return
        try:
            fed = (self._here or not must_stay_here()) and self._feed_in_state(most, block=False)
        finally:
            self._feeding.release()
        if not fed:
            self._wake_feeder()

    def _feed_in_state(self, most: int, *, block: bool) -> bool:
        if self._ambient.is_here():
            return self._feed(most, block)
        return self._ambient.run(lambda: self._feed(most, block))

    def _feed(self, most: int, block: bool) -> bool:
        """Requires the feeding lock. Feeds `most` calls, and goes on until a marker is out. False when the queue is
        full: then there may be none."""
        waiting, priority, calls = self._waiting, self._priority, self._calls
        if calls is None:
            return True
        full = False  # and this call waits for room
        try:
            submit = calls._predictor._open_core().submit
            while waiting and not self._stopped and (most > 0 or self._marker is None):
                try:
                    args, expires = waiting.popleft()
                except IndexError:  # cancelled a moment ago
                    break
                due = self._fed >= self._next_mark or (most <= 1 and self._marker is None)
                marks = due and (bool(waiting) or self._input is not None)
                marker = _Marker(self, self._fed) if marks or full else None
                if full:
                    self._in_hand = marker
                pending: Any
                try:
                    left = None if expires is None else _left_of(expires)
                    pending = submit(args, None, marker, False, full, not full, priority, left)
                except _core.QueueFull:
                    waiting.appendleft((args, expires))
                    if not block:
                        return False
                    full = True
                    continue
                except _core.Closed:
                    raise
                except Exception as error:
                    pending = mapping.Failed(without_our_frame(error))
                most -= 1
                self._add(pending, marker if marks else None)
        except _core.Closed as error:
            self._stop(without_our_frame(error))
        finally:
            self._in_hand = None
        if self._accepted == self._fed:
            self._tell()
        return True

    def _add(self, pending: Any, marker: _Marker | None) -> None:
        self._in_order.append(pending)
        self._fed += 1
        if marker is not None and type(pending) is _core.Pending and not pending.ready:
            self._next_mark = self._fed + self._half
            self._marker = marker
            if marker.done:  # before it was the last one
                self._marker_done(marker)
        if self._starving:
            self._tell()
        if self._stopped:  # by a thread that may not have seen this call
            self._abandon(pending)

    def _marker_done(self, marker: _Marker) -> None:
        """On a resolver's thread, where nothing may be fed: calls run at once there."""
        self._settled = max(self._settled, marker.position + 1)
        if self._marker is marker:
            self._marker = None
            if self._left_to_feed():
                self._wake_feeder()

    def _left_to_feed(self) -> bool:
        return self._accepted != self._fed and not self._stopped

    def _wake_feeder(self) -> None:
        with self._cond:
            self._hungry = True
            if self._feeder is not None:
                self._cond.notify_all()
            elif not self._held:
                try:
                    self._start_feeder()
                except RuntimeError:  # too many threads, or the interpreter is at its end: iterating and draining feed
                    log.exception("starting a thread that feeds a predictor")

    def _feed_on_thread(self) -> None:
        try:
            while self._wait_hungry():
                with self._feeding:
                    behind = max(self._settled, self._fed - len(self._in_order)) + self._ahead - self._fed
                    self._feed_in_state(behind, block=True)
                    self._let_inputs_go()
        except BaseException as error:
            log.exception("feeding a predictor")
            self._stop(RuntimeError(f"feeding failed: {error!r}"))
            raise

    def _wait_hungry(self) -> bool:
        with self._cond:
            while self._left_to_feed() and (self._held or not self._hungry):
                self._cond.wait()
            self._hungry = False
            if self._left_to_feed():
                return True
            self._feeder = None
            return False

    def _let_inputs_go(self) -> None:
        """Requires the feeding lock. What is done, and will not be taken soon, keeps its result only."""
        first = max(self._let_go, self._fed - len(self._in_order) + self._ahead)
        for place in range(first - self._fed, self._settled - self._fed):  # from the right end: the left one may lose
            try:
                call = self._in_order[place]
                if type(call) is _core.Pending and call.done():
                    self._in_order[place] = _outcome(call)
            except IndexError:
                continue
        self._let_go = max(first, self._settled)

    def _tell(self) -> None:
        with self._cond:
            self._cond.notify_all()

    def release(self) -> None:
        with self._cond:
            self._held = False
            self._cond.notify_all()
        if self._left_to_feed():
            self._wake_feeder()

    # --- stopping ---------------------------------------------------------------------------------------------------

    def _stop(self, tail: BaseException | None) -> None:
        """Nothing is fed any more; `tail` is raised after the results of what was."""
        if not self._stopped:
            self._tail = tail
            self._stopped = True
        self._source = None
        self._waiting.clear()
        if (in_hand := self._in_hand) is not None:
            in_hand.withdraw()
        self._tell()

    def _abandon(self, call: Any) -> None:
        if not call.done() and not call.cancel():
            self._left_running.append(call)


def _outcome(call: _core.Pending) -> mapping.Done | mapping.Failed:
    try:
        return mapping.Done(call.result())
    except BaseException as error:
        return mapping.Failed(without_our_frame(error))


def _left_of(expires: float) -> float:
    left = expires - time.monotonic()
    if left <= 0:
        raise TimeoutError(EXPIRED)
    return left
