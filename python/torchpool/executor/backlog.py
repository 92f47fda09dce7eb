"""What an executor sends into a predictor: a backlog without bounds that feeds the predictor's bounded queue."""

from __future__ import annotations

import abc
import concurrent.futures
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from torchpool import _core
from torchpool.call import Ambient, Future, must_stay_here, without_our_frame
from torchpool.predictor import Calls

log = logging.getLogger("torchpool")

_feeders: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
EXPIRED = "the deadline of the call passed before it was queued"


def seconds_left(until: float | None) -> float | None:
    """From now to a time of time.monotonic(), never negative; None is for ever."""
    return None if until is None else max(0.0, until - time.monotonic())


def fresh(error: Exception) -> Exception:
    """An exception like this one, without its traceback: one object raised in many places would collect them all."""
    try:
        return type(error)(*error.args)
    except Exception:  # of a class with a constructor of its own
        return error


class Stream(abc.ABC):
    """What the streams of an executor share: they may be held, and a daemon thread feeds what found no room."""

    def __init__(self, held: bool) -> None:
        # Reentrant, as a condition is by default: the garbage collector may close an iterator while it is held.
        self._cond = threading.Condition()
        self._held = held
        self._feeder: threading.Thread | None = None

    def hold(self) -> None:
        """Nothing is fed from now on until release()."""
        self._held = True

    @abc.abstractmethod
    def release(self) -> None:
        """Feeds what came meanwhile, on a thread of its own."""

    @property
    @abc.abstractmethod
    def pending(self) -> int:
        """Calls accepted and not resolved."""

    @abc.abstractmethod
    def drain(self, until: float | None = None) -> bool:
        """Waits until nothing is pending; False when `until`, of time.monotonic(), came first."""

    @abc.abstractmethod
    def cancel_waiting(self) -> None:
        """Cancels what has not started, here and in the predictor's queue, and whatever comes later."""

    @abc.abstractmethod
    def break_(self, error: Exception) -> None:
        """Fails what the predictor does not have yet, and whatever comes later, with exceptions like `error`."""

    @abc.abstractmethod
    def after_fork_in_child(self, error: Exception) -> None:
        """Fails what is pending with exceptions like `error`: nobody in this process would ever resolve it."""

    @abc.abstractmethod
    def _feed_on_thread(self) -> None: ...

    def _start_feeder(self) -> None:
        """Requires the condition's lock. Raises RuntimeError where the process may start no more threads."""
        if self._feeder is None:
            thread = threading.Thread(target=self._feed_on_thread, name="torchpool-feeder", daemon=True)
            self._feeder = thread
            _feeders.add(thread)
            try:
                thread.start()
            except BaseException:
                self._feeder = None
                raise

    def _restart(self) -> None:
        """In a forked child: no thread survived, and a lock may be held by one that is gone."""
        self._cond = threading.Condition()
        self._feeder = None


def join_feeders(seconds: float) -> None:
    """At exit, once all streams are drained: a daemon thread that still drops a tensor when the interpreter goes away
    aborts the process. One that waits for room, for a call that was cancelled, is not waited for longer."""
    until = time.monotonic() + seconds
    for thread in list(_feeders):
        if thread.ident is not None:
            thread.join(seconds_left(until))


class StreamFuture(Future):
    """The future of one call of a stream; may also be cancelled while it waits in the backlog."""

    def __init__(self, stream: SubmitStream, calls: Calls) -> None:
        super().__init__()
        self._stream = stream
        self._calls: Calls | None = calls  # a predictor that nobody holds fails what it has: kept until this is done
        self._handed: _core.Pending | None = None
        self._waiting = True  # until the predictor has the call or refused it
        self._withdrawn = False
        # What is needed to hand it over later; None for one that never waited.
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._expires: float | None = None
        self._ambient: Ambient | None = None

    @property
    def _pending(self) -> _core.Pending | None:
        return self._handed

    @_pending.setter
    def _pending(self, pending: _core.Pending | None) -> None:
        self._handed = pending
        if pending is None:
            return
        self._waiting = False
        if self._withdrawn:  # cancelled a moment ago, in the backlog: it takes no place in the queue
            pending.cancel()

    def cancel(self) -> bool:
        """True when the call had not started, and now never will; False once its batch runs or is done."""
        if self._waiting and not self.done():
            self._withdrawn = True
            if self._waiting:  # else it was handed over meanwhile, before it could be seen that it is withdrawn
                self._settle_cancelled()
                self._leave()
                return self.cancelled()
        return super().cancel()

    def _settle(self) -> None:
        try:
            if self.done():
                self._pending = None
            else:
                super()._settle()
        finally:
            self._leave()

    def _fail(self, error: BaseException) -> None:
        """The call never came to the predictor."""
        self._withdrawn = True
        self._waiting = False
        try:
            self.set_exception(error)
        except concurrent.futures.InvalidStateError:  # cancelled meanwhile
            pass
        finally:
            self._leave()

    def _leave(self) -> None:
        self._calls = self._call = self._ambient = None
        self._stream._resolved(self)

    def _hand_over(self, *, block: bool) -> None:
        """Submits it. Raises QueueFull, where it may not block, and what is no Exception, such as KeyboardInterrupt;
        anything else is the outcome of this call."""
        call, calls, expires = self._call, self._calls, self._expires
        if call is None or calls is None:  # withdrawn
            return
        deadline = calls._deadline
        if expires is not None:
            deadline = expires - time.monotonic()
        try:
            if deadline is not None and deadline <= 0:
                raise TimeoutError(EXPIRED)
            core = calls._predictor._open_core()
            pending = core.submit(call[0], call[1], self, False, block, not block, calls._priority, deadline)
        except _core.QueueFull:
            self._handed, self._waiting = None, True
            raise
        except Exception as error:
            self._fail(without_our_frame(error))
            return
        self._call = self._ambient = None  # the inputs are the predictor's now
        if pending.ready:
            self._pending = pending
            self._settle()


class SubmitStream(Stream):
    """`ex.submit(predictor, ...)`: one stream for each predictor, priority and deadline.

    It holds no predictor while nothing is pending. `on_empty(stream)` is called whenever that becomes so, on any
    thread, with no lock held. Thread-safe.
    """

    def __init__(self, *, held: bool = False, on_empty: Callable[[SubmitStream], None] | None = None) -> None:
        super().__init__(held)
        self._on_empty = on_empty
        self._open: set[StreamFuture] = set()  # accepted and not resolved
        self._backlog: deque[StreamFuture] = deque()  # in order; its first is the one that the feeder hands over
        self._refusal: Exception | None = None  # what all later calls get: broken, or cancelled

    @property
    def pending(self) -> int:
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Of these, how many the predictor does not have yet."""
        return sum(future._waiting for future in list(self._backlog))

    def submit(self, calls: Calls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamFuture:
        """A future of the call. Never waits for room, nor for a predictor that learns a new kind of call.

        What is wrong with the call, or a predictor that is closed, is the future's exception. A deadline counts from
        here. A call that waits in the backlog is made in the state (autocast, grad mode, context variables) of the
        thread that submits it; its inputs are copied when the predictor takes it.
        """
        future = StreamFuture(self, calls)
        future._call = (args, kwargs)
        self._open.add(future)
        try:
            self._accept(future, calls, args, kwargs)
        except BaseException:
            future._fail(RuntimeError("interrupted while it was submitted"))
            raise
        return future

    def _accept(self, future: StreamFuture, calls: Calls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A thread that a worker runs on may wait for the result before any room comes: such calls run here, at once.
        here = _core.on_worker_thread() or must_stay_here()
        if self._refusal is None and (here or self._takes_at_once(future, calls, args, kwargs)):
            try:
                future._hand_over(block=False)
                return
            except _core.QueueFull:
                pass
        if future.done():
            return
        future._ambient = Ambient()
        if future._expires is None and calls._deadline is not None:
            future._expires = time.monotonic() + calls._deadline
        with self._cond:
            refusal = self._refusal
            if refusal is None:
                self._backlog.append(future)
                if not self._held or future._expires is not None:
                    self._start_feeder()
                return
        self._refuse(future, refusal)

    def _takes_at_once(self, future: StreamFuture, calls: Calls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if self._held or self._backlog:
            return False
        try:
            return calls._predictor._open_core().is_known(args, kwargs)  # else it would learn here, which takes time
        except Exception as error:
            future._fail(without_our_frame(error))
            return False

    def _resolved(self, future: StreamFuture) -> None:
        with self._cond:
            if future not in self._open:
                return
            self._open.discard(future)
            empty = not self._open
            if empty:
                self._cond.notify_all()
        if empty and self._on_empty is not None:
            self._on_empty(self)

    def _feed_on_thread(self) -> None:
        try:
            while (future := self._next()) is not None:
                self._feed(future)
                del future
        except BaseException:
            log.exception("feeding a predictor")
            raise

    def _feed(self, future: StreamFuture) -> None:
        ambient = future._ambient
        try:
            if ambient is not None:
                ambient.run(lambda: future._hand_over(block=True))
        except BaseException as error:  # what a model raises in a run of the learner, SystemExit among it
            future._fail(without_our_frame(error))
        with self._cond:
            if self._backlog and self._backlog[0] is future:
                self._backlog.popleft()

    def _next(self) -> StreamFuture | None:
        """The first of the backlog, which stays there until it is handed over, so that no later call overtakes it."""
        with self._cond:
            while True:
                while self._backlog and self._backlog[0].done():
                    self._backlog.popleft()
                if not self._backlog:
                    self._feeder = None
                    return None
                first = self._backlog[0]
                if not self._held:
                    return first
                if first._expires is not None and first._expires <= time.monotonic():
                    return first  # which only tells it so
                self._cond.wait(seconds_left(first._expires))

    def release(self) -> None:
        with self._cond:
            self._held = False
            self._cond.notify_all()
            if self._backlog:
                self._start_feeder()

    def drain(self, until: float | None = None) -> bool:
        with self._cond:
            return self._cond.wait_for(lambda: not self._open, seconds_left(until))

    def cancel_waiting(self) -> None:
        self._stop(concurrent.futures.CancelledError())
        for future in list(self._open):
            future.cancel()

    def break_(self, error: Exception) -> None:
        for future in self._stop(error):
            self._refuse(future, error)

    def _stop(self, refusal: Exception) -> list[StreamFuture]:
        with self._cond:
            self._refusal = refusal
            waiting = [future for future in self._backlog if future._waiting]
            self._backlog.clear()
            self._cond.notify_all()
        return waiting

    def _refuse(self, future: StreamFuture, refusal: Exception) -> None:
        if isinstance(refusal, concurrent.futures.CancelledError):
            future.cancel()
        elif not future.done():
            future._fail(fresh(refusal))

    def after_fork_in_child(self, error: Exception) -> None:
        self._restart()
        lost, self._open = self._open, set()
        self._backlog.clear()
        for future in lost:
            if future._handed is not None:
                _core.leak(future._handed)  # its request belongs to threads that are gone
            future._condition = threading.Condition()  # may be held by one of them
            if not future.done():
                future._handed = None
                future._fail(fresh(error))
