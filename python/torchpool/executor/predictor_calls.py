"""All that an executor has sent to predictors and is to see through."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import torch

from torchpool import _core
from torchpool.call import Ambient, Future, must_stay_here, without_our_frame
from torchpool.executor.entered_calls import FIRST, EnteredCalls, LateEnteredCall, is_over, without_variables
from torchpool.executor.late_calls import LateCall, LateCalls, join_late_threads
from torchpool.executor.predictor_map import PredictorMap
from torchpool.predictor import Callee, Calls

_EXIT_SECONDS = 2.0
_SHUT_DOWN = "cannot schedule new futures after shutdown"
_all: weakref.WeakSet[PredictorCalls] = weakref.WeakSet()


class PredictorCalls:
    """The calls of one executor. `held`: none goes to a predictor before release()."""

    def __init__(self, *, held: bool) -> None:
        self.held = held
        self.group = _core.CallGroup()
        self._maps: weakref.WeakSet[PredictorMap] = weakref.WeakSet()  # one that has calls to send keeps itself alive
        self._cancelled = False
        self._ended = False  # no map begins any more
        self._error: Callable[[], Exception] | None = None  # of a failed initializer
        self._start_afresh()
        _all.add(self)

    def _start_afresh(self) -> None:
        self._lock = threading.RLock()  # reentrant: a finalizer may submit at any allocation
        self._late: dict[Callee, LateCalls] = {}

    # --- sending ----------------------------------------------------------------------------------------------------

    def submit(
        self, calls: Calls, args: tuple[Any, ...], kwargs: dict[str, Any], priority: int, deadline: float | None
    ) -> Future:
        """A future of a predictor's call; an executor's priority and deadline come before a view's own.

        Never waits for room, nor for a predictor that learns a new kind of call. What is wrong with the call, or a
        predictor that is closed, is the future's exception. A deadline counts from here.
        """
        calls = _at(calls, priority, deadline)
        try:
            return self.start(calls, args, kwargs, calls._deadline)
        except Exception as error:
            return _core.failed_future(without_our_frame(without_our_frame(error)))

    def map(
        self,
        calls: Calls,
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        buffersize: int | None,
        priority: int,
        deadline: float | None,
    ) -> Iterator[Any]:
        """The results of a predictor's calls, in order; computed whether they are taken or not."""
        made = PredictorMap(self, _at(calls, priority, deadline), iterables, timeout, buffersize)
        return self._read(made)

    def map_entered(
        self, calls: EnteredCalls, iterables: tuple[Iterable[Any], ...], timeout: float | None, buffersize: int | None
    ) -> Iterator[Any]:
        """As map(), of an accelerated module's calls, each of which is looked at by itself."""
        return self._read(without_variables(lambda: PredictorMap(self, calls, iterables, timeout, buffersize)))

    def _read(self, made: PredictorMap) -> Iterator[Any]:
        with self._lock:
            self._maps.add(made)
            ended = self._ended
        if ended:  # it was shut down a moment ago, by a thread that has not seen this map
            raise RuntimeError(_SHUT_DOWN)
        made.read()
        return made.results()

    def start(
        self,
        calls: Calls,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        deadline: float | None,
        window: _core.CallWindow | None = None,
        ambient: Ambient | None = None,
        *,
        here: bool = True,
        late: bool = False,
    ) -> Future:
        """A future of one call, on its way; `deadline` is in seconds from now. Raises what refuses the call.

        `here`: where the calling thread could wait for itself, and under torch's modes, which no other thread has, the
        call runs on it. `late`: another thread hands it over, in the state `ambient`, or the calling thread's.
        """
        if isinstance(calls, EnteredCalls):
            expires = None if deadline is None else time.monotonic() + deadline
            return self._start_entered(calls, args, kwargs or {}, expires, window, ambient, late=late)
        predictor = calls._predictor
        at_once = not (late or self.held or predictor in self._late)
        if at_once or (here and not late and (_core.on_worker_thread() or must_stay_here())):
            core = predictor._open_core()
            future = core.line_up(args, kwargs, calls._priority, deadline, self.group, window, predictor, here)
            if future is not None:
                if self._cancelled:  # meanwhile
                    future.cancel()
                return future
        future = self.group.future(window, predictor)
        try:
            expires = None if deadline is None else time.monotonic() + deadline
            self._add_late(predictor, LateCall(future, calls, args, kwargs, expires, ambient))
        except BaseException as error:
            _core.fail_call(future, error)
            raise
        if self._cancelled:
            future.cancel()
        return future

    def submit_entered(self, calls: EnteredCalls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future:
        """A future of an accelerated module's call. Raises what the executor raises that is to run it."""
        expires = None if calls._deadline is None else time.monotonic() + calls._deadline
        start: Callable[[], Future] = lambda: self._start_entered(calls, args, kwargs, expires)  # noqa: E731
        return without_variables(start)

    def _start_entered(
        self,
        calls: EnteredCalls,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        expires: float | None,
        window: _core.CallWindow | None = None,
        ambient: Ambient | None = None,
        *,
        late: bool = False,
    ) -> Future:
        """By the predictor, where it answers this call, else by a thread of the executor's."""
        predictor = calls._predictor
        instead = self._instead(calls, kwargs, expires)
        if not late and predictor not in self._late:
            left = None if expires is None else expires - time.monotonic()
            found = calls.who_serves(args, kwargs)
            future = None
            if not isinstance(found, str):
                future = self._line_up_entered(calls, found, args, kwargs, left, window, instead)
            elif found != FIRST:
                future = self._on_thread(calls, args, kwargs, left, window)
            if future is not None:
                return future
        future = self.group.future(window, predictor, instead, args)
        try:
            self._add_late(predictor, LateEnteredCall(future, calls, args, kwargs, expires, ambient))
        except BaseException as error:
            _core.fail_call(future, error)
            raise
        if self._cancelled:
            future.cancel()
        return future

    def _instead(
        self, calls: EnteredCalls, kwargs: dict[str, Any], expires: float | None
    ) -> Callable[[Future, tuple[Any, ...], Exception], None]:
        """Has the module answer what its predictor failed, in the grad mode of the calling thread now."""
        grad = torch.is_grad_enabled()

        def instead(future: Future, args: tuple[Any, ...], error: Exception) -> None:
            if is_over(error, expires):
                _core.fail_call(future, error)
                return
            with torch.set_grad_enabled(grad):  # of this state nothing else is the caller's
                late = LateEnteredCall(future, calls, args, kwargs, expires, None, failed=True)
            self._add_late(calls._predictor, late)

        return instead

    def _on_thread(
        self,
        calls: EnteredCalls,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        left: float | None,
        window: _core.CallWindow | None,
    ) -> Future | None:
        """None where what a map has read comes too late for the threads."""
        try:
            return calls.on_thread(calls.run, args, kwargs, left, bypass=window is not None)
        except RuntimeError:
            if window is None:
                raise
            return None

    def _line_up_entered(
        self,
        calls: EnteredCalls,
        predictor: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        left: float | None,
        window: _core.CallWindow | None,
        instead: Callable[[Future, tuple[Any, ...], Exception], None],
    ) -> Future | None:
        """None where it has to wait, or is refused."""
        try:
            core = predictor._open_core()
            future = core.line_up(args, kwargs, calls._priority, left, self.group, window, predictor, False, instead)
        except Exception:  # no error of the call: it is not known yet what the module makes of it
            return None
        if future is None:
            return None
        calls.note_served(1)
        if self._cancelled:  # meanwhile
            future.cancel()
        return future

    def start_each(
        self, calls: Calls, each: list[tuple[Any, ...]], deadline: float | None, window: _core.CallWindow, here: bool
    ) -> list[Future]:
        """Futures of the first of these calls, as start() gives them one by one: of all that it starts at once and
        does not refuse."""
        predictor = calls._predictor
        if self.held or predictor in self._late:
            return []
        if isinstance(calls, EnteredCalls):
            futures = self._line_up_each_entered(calls, each, deadline, window)
        else:
            core = predictor._open_core()
            futures = core.line_up_each(each, calls._priority, deadline, self.group, window, predictor, here)
        if self._cancelled:  # meanwhile
            for future in futures:
                future.cancel()
        return futures

    def _line_up_each_entered(
        self, calls: EnteredCalls, each: list[tuple[Any, ...]], left: float | None, window: _core.CallWindow
    ) -> list[Future]:
        """Of the first that the predictor answers."""
        found = calls.who_serves_each(each)
        if isinstance(found, str):
            return []
        count, predictor = found
        instead = self._instead(calls, {}, None if left is None else time.monotonic() + left)
        try:
            core = predictor._open_core()
            futures = core.line_up_each(
                each[:count], calls._priority, left, self.group, window, predictor, False, instead
            )
        except Exception:  # no error of a call: it is not known yet what the module makes of it
            return []
        calls.note_served(len(futures))
        return futures

    def _add_late(self, predictor: Callee, call: LateCall) -> None:
        with self._lock:
            error = self._error
            if error is None:
                late = self._late.get(predictor)
                if late is None:
                    late = self._late[predictor] = LateCalls(self._lock, self._forget_late)
                late.add(call, held=self.held)
        if error is not None:
            call.fail(error())

    def _forget_late(self, late: LateCalls) -> None:
        for predictor in [predictor for predictor, each in self._late.items() if each is late]:
            del self._late[predictor]

    # --- ending -----------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Calls accepted and not resolved."""
        return self.group.pending

    def release(self) -> None:
        """Sends what was held back."""
        with self._lock:
            self.held = False
            held = list(self._late.values())
        for late in held:
            late.release()

    def end(self) -> None:
        """Maps that read their input as they are iterated over read no more: the executor was shut down."""
        self._ended = True
        for each in self._known_maps():
            each.read_no_more(RuntimeError(_SHUT_DOWN))

    def drain(self) -> None:
        """Waits until everything accepted is resolved."""
        self.group.wait_none()

    def cancel_waiting(self) -> None:
        """Cancels what has not started."""
        self._cancelled = True
        for each in self._known_maps():
            each.stop(CancelledError())
        for call in self._take_late():
            call.forget_deadline()
        self.group.cancel_waiting()

    def fail(self, error: Callable[[], Exception]) -> None:
        """Fails what is held, and what comes later."""
        with self._lock:
            self._error = error
            late = self._take_late()
        for call in late:
            call.fail(error())
        for each in self._known_maps():
            each.stop(error())

    def _known_maps(self) -> list[PredictorMap]:
        with self._lock:  # another thread may add one
            return list(self._maps)

    def _take_late(self) -> list[LateCall]:
        with self._lock:
            late, self._late = self._late, {}
            return [call for each in late.values() for call in each.take_all()]

    def after_fork(self, error: Callable[[], Exception]) -> None:
        """In a forked child, where no thread survived and a lock may be held by one that is gone."""
        self._start_afresh()
        for each in list(self._maps):
            each.after_fork(error())


def finish_predictor_calls() -> None:
    """At exit: waits for what every executor has accepted."""
    _core.wait_for_calls()
    join_late_threads(_EXIT_SECONDS)


def after_fork_in_child(error: Callable[[], Exception]) -> None:
    """What is pending belongs to the parent's threads: it fails here, of all executors, also of those that are gone."""
    for calls in list(_all):
        calls.after_fork(error)
    _core.fail_calls_after_fork(error)


def _at(calls: Calls, priority: int, deadline: float | None) -> Calls:
    if priority == 0 and deadline is None:
        return calls
    return calls._predictor.options(
        priority=priority or calls._priority, deadline=calls._deadline if deadline is None else deadline
    )
