"""Calls of an accelerated module, as an executor sends them.

Each call is looked at when it is sent. One that the module's predictor would answer goes there at once, and takes no
thread; so the calls of a map are merged from the map's own list. All others run on the executor's threads, as a
function's do, and so does a call that the predictor has failed.
"""

from __future__ import annotations

import contextvars
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from torchpool import _core
from torchpool.call import Ambient, Future, without_our_frame
from torchpool.executor.late_calls import LateCall
from torchpool.predictor import Callee, Calls, Predictor, entrance_of, mapping

T = TypeVar("T")

FIRST = "first of its kind"
"""Of a call that the module is to answer before others like it go to the predictor."""
FAILED = "failed"
"""Of a call that the predictor has answered by an error, which the module is to answer."""
_DEVICES = ("cpu", "cuda")


class Threads(Protocol):
    """What such calls need of their executor."""

    def _submit_task(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        priority: int,
        deadline: float | None,
        *,
        bypass: bool,
    ) -> Future:
        """On one of its threads; `bypass`: whatever the bound of its queue."""


class EnteredCalls(Calls[..., Any]):
    """Those of one module, at one priority and deadline."""

    def __init__(
        self,
        fn: Callable[..., Any],
        module: nn.Module,
        entrance: _core.Entrance,
        predictor: Predictor,
        executor: weakref.ref[Any],
        priority: int,
        deadline: float | None,
    ) -> None:
        self.run = fn
        """The module, or its forward: answers a call on the calling thread."""
        self._module = module
        self._opened = predictor
        self._entrance = entrance
        self._who = entrance.who_serves_call if fn is module else entrance.who_serves_forward
        self._executor = executor
        self._priority = priority
        self._deadline = deadline

    @property
    def _predictor(self) -> Callee:
        return self._opened

    def who_serves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Predictor | str:
        """The predictor that answers this call now, by the calling thread's grad mode; else why there is none."""
        found = self._ask((args,), kwargs)
        return found if isinstance(found, str) else found[1]

    def who_serves_each(self, calls: list[tuple[Any, ...]]) -> tuple[int, Predictor] | str:
        """The same for the first of these calls, and how many they are."""
        return self._ask(tuple(calls), {})

    def _ask(self, calls: tuple[tuple[Any, ...], ...], kwargs: dict[str, Any]) -> tuple[int, Predictor] | str:
        try:
            return self._who(self._module, calls, kwargs)
        except Exception:  # the predictor cannot be made: the module's keeper has noted it
            return "no predictor"

    def note_served(self, calls: int) -> None:
        """So many are on their way to the predictor."""
        self._entrance.note_served(calls)

    def on_thread(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: float | None,
        *,
        bypass: bool,
    ) -> Future:
        """A future of fn(*args, **kwargs), by a thread of the executor. RuntimeError: it takes no more tasks."""
        executor: Threads | None = self._executor()
        if executor is None:
            raise RuntimeError("the executor is gone")
        return executor._submit_task(fn, args, kwargs, self._priority, deadline, bypass=bypass)

    def _inputs(self) -> Any:
        """As the standard map reads: a module is given the items as they are."""
        return _AsTheyAre()


class _AsTheyAre:
    def map(self, iterables: tuple[Iterable[Any], ...]) -> Iterator[mapping.Input]:
        return zip(*iterables, strict=False)


class LateEnteredCall(LateCall):
    """One that could not line up at once, or that the predictor has failed."""

    def __init__(
        self,
        future: Future,
        calls: EnteredCalls,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        expires: float | None,
        ambient: Ambient | None,
        *,
        failed: bool = False,
    ) -> None:
        super().__init__(future, calls, args, kwargs, expires, ambient)
        self._entered = calls
        self._named = kwargs
        self._failed = failed

    def _hand_over(self) -> None:
        left = self._seconds_left()
        found = FAILED if self._failed else self._entered.who_serves(self._args, self._named)
        if not isinstance(found, str):
            try:
                core = found._open_core()
                core.hand_over(self.future, self._args, self._kwargs, self._entered._priority, left)
                self._entered.note_served(1)
                return
            except Exception as error:
                if is_over(error, left):
                    raise
                found = FAILED
        if found not in (FIRST, FAILED):
            try:
                self._entered.on_thread(self._answer, (), {}, None, bypass=True)
                return
            except RuntimeError:  # this thread is as good
                pass
        self._answer()

    def _answer(self) -> None:
        """By the module, on the calling thread. Its error is the call's."""
        if self.future.done():
            return
        try:
            result = self._entered.run(*self._args, **self._named)
        except BaseException as error:
            self.fail(without_our_frame(error))
        else:
            self.forget_deadline()
            _core.answer_call(self.future, result)


def is_over(error: Exception, deadline: float | None) -> bool:
    """Whether the error is that the call came too late, which is no failure of its predictor's."""
    return deadline is not None and isinstance(error, TimeoutError)


def entered_calls(
    fn: Callable[..., Any], executor: Any, priority: int = 0, deadline: float | None = None
) -> EnteredCalls | None:
    """The calls of what an executor is given; None where it is to run on threads: no module that is accelerated, nor
    the forward of one, or one that cannot be served now."""
    module = _module_of(fn)
    entrance = None if module is None else entrance_of(module)
    if module is None or entrance is None or module.training:
        return None
    # Autocast is not the threads'. A module that is run for a predictor answers its own calls.
    if any(torch.is_autocast_enabled(device) for device in _DEVICES) or _core.on_worker_thread() or _core.is_inside():
        return None
    try:
        predictor = entrance.open()
    except Exception:  # the keeper has noted it
        return None
    if predictor is None:
        return None
    return EnteredCalls(fn, module, entrance, predictor, weakref.ref(executor), priority, deadline)


def _module_of(fn: Any) -> nn.Module | None:
    if isinstance(fn, nn.Module):
        return fn
    owner = getattr(fn, "__self__", None) if inspect.ismethod(fn) else None
    if isinstance(owner, nn.Module) and fn.__func__ is getattr(type(owner), "forward", None):
        return owner
    return None


def without_variables(run: Callable[[], T]) -> T:
    """run(), without the caller's context variables, which an executor's threads do not have either."""
    return contextvars.Context().run(run) if len(contextvars.copy_context()) else run()
