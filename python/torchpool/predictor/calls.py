"""The ways to call a predictor."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol

import torch

from torchpool import _core
from torchpool.predictor import aio, mapping, sources
from torchpool.predictor.inputs import Inputs
from torchpool.predictor.options import Options
from torchpool.predictor.patience import Patience
from torchpool.predictor.schedule import Schedule
from torchpool.predictor.typed import P, R


class Callee(Protocol):
    """What the ways to call a predictor need of it."""

    _options: Options

    @property
    def model(self) -> Callable[..., Any]:
        """What is called."""

    def _open_core(self) -> _core.Predictor:
        """Who answers calls, in a forked child, too."""

    def _callee(self) -> _core.Predictor | Patience:
        """Who answers a call that its thread waits for."""

    def _look_ahead(self) -> int:
        """Calls of a map in flight: every worker has a full batch running, and several more to choose near lengths
        from."""

    def options(self, *, priority: int = 0, deadline: float | None = None) -> Calls:
        """The same predictor at another priority and deadline."""


class Calls(Generic[P, R]):
    """The ways to call a predictor, each at the same priority and deadline."""

    _priority: int = 0
    _deadline: float | None = None

    @property
    def _predictor(self) -> Callee:
        raise NotImplementedError

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The model's output for these arguments, computed in a batch with other calls'.

        Raises what the model raises for this call alone; TypeError or ValueError for arguments that it refuses;
        QueueFull, Closed; TimeoutError past the deadline.
        """
        return self._predictor._callee().call(args, kwargs, self._priority, self._deadline)  # type: ignore[no-any-return]

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[R]:
        """A future of the call. Inputs above 64 KiB must not be written until it is done; smaller ones are copied."""
        return self._predictor._open_core().submit_future(args, kwargs, self._priority, self._deadline)

    def _submit(self, args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> _core.Pending:
        core = self._predictor._open_core()
        return core.submit(args, kwargs, priority=self._priority, deadline=self._deadline, **options)

    def _feed(self, schedule: Schedule | None = None) -> mapping.Feed:
        """Submits one call of a map, which waits for room whatever `overflow` says: its look-ahead is bounded."""
        core, priority, deadline = self._predictor._open_core(), self._priority, self._deadline
        dynamic, chunk = (False, 0) if schedule is None else (schedule.kind == "dynamic", schedule.chunk)
        if priority == 0 and deadline is None and not dynamic and not chunk:
            return core.feed
        return lambda args, kwargs: core.feed(args, kwargs, priority, deadline, dynamic, chunk)

    def map(
        self,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool = False,
        schedule: str | None = None,
    ) -> mapping.MapIterator:
        """Results of calls with one argument from each iterable, as the built-in map; work starts at once.

        At most `buffersize` calls are in flight (by default enough to keep all workers busy), so iterables may be
        endless; a tensor or an array is taken row by row, a tokenizer's output of tensors row by row with a batch dim
        of one, a DataLoader batch by batch, a dataset sample by sample. Numbers, lists and arrays become tensors where
        wrap(example=) shows one. A mapping whose keys are names of the model's arguments is keyword arguments. Of lists
        of fields, as loaders and datasets give, one tensor is the argument; of a pair, for a model of one argument, the
        first is, and the labels are left out; others raise TypeError. len() is that of the inputs, where all have one:
        how many results are left. `timeout` counts seconds from this call. With
        `return_exceptions` a failed call's exception stands in its result's place; otherwise it is raised and the
        rest is cancelled, as it is when the iterator is closed early. `progress=True` shows tqdm's bar.

        `schedule` says how calls are parted into batches, as in OpenMP, each perhaps with a chunk of rows behind it
        ("dynamic,16"): "guided" (the default) takes smaller batches, of `chunk` at least, as less is left to share out,
        so that all workers end together; "dynamic" takes whole batches, of `chunk` at most.
        """
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        inputs = self._inputs()
        calls = inputs.map(iterables)
        at_once = self._at_once(inputs, Schedule.parse(schedule))
        return self._map(calls, iterables, timeout, buffersize, ordered, progress, return_exceptions, schedule, at_once)

    def starmap(
        self,
        iterable: Iterable[Any],
        *,
        timeout: float | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool = False,
        schedule: str | None = None,
    ) -> mapping.MapIterator:
        """As map, for one iterable of calls: a tuple or list is positional arguments, a mapping (such as a tokenizer's
        output) keyword arguments. So is what a DataLoader or a dataset gives."""
        calls = self._inputs().starmap(iterable)
        return self._map(calls, (iterable,), timeout, buffersize, ordered, progress, return_exceptions, schedule)

    def _map(
        self,
        calls: Iterator[mapping.Input],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        buffersize: int | None,
        ordered: bool,
        progress: bool,
        return_exceptions: bool,
        schedule: str | None,
        at_once: mapping.AtOnce | None = None,
    ) -> mapping.MapIterator:
        ahead = self._calls_ahead(buffersize)
        lengths = [sources.length_of(source) for source in iterables]
        hints = [sources.length_hint(source) if n is None else n for source, n in zip(iterables, lengths, strict=True)]
        hint = min((n for n in hints if n is not None), default=None)
        made = mapping.MapIterator if None in lengths else mapping.SizedMapIterator
        return made(
            self._submit,
            self._feed(Schedule.parse(schedule)),
            calls,
            ahead=ahead,
            timeout=timeout,
            ordered=ordered,
            return_exceptions=return_exceptions,
            bar=mapping.progress_bar(hint) if progress else None,
            length_hint=hint,
            at_once=at_once,
        )

    def _at_once(self, inputs: Inputs, schedule: Schedule) -> mapping.AtOnce | None:
        if inputs.at_once is None or self._deadline is not None:
            return None
        core, dynamic = self._predictor._open_core(), schedule.kind == "dynamic"
        submit = functools.partial(core.submit_to, priority=self._priority, dynamic=dynamic, chunk=schedule.chunk)
        return mapping.AtOnce(inputs.at_once, inputs.call_of, submit, core.submit_like)

    def acall(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """As a call, awaited: on its way at once where a loop runs, else once it is awaited.

        What it gives is a future of the running loop, so that `asyncio.gather` and `wait_for` need no task for it, and
        a coroutine as well, for `create_task` (do so for `asyncio.wait`, which takes no coroutines). Cancelling it
        takes the call out of its queue; the loop is never blocked. All errors are raised when it is awaited.
        """
        if asyncio._get_running_loop() is None:
            return self._acall_later(args, kwargs)
        return self._start(args, kwargs)

    async def _acall_later(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return await self._start(args, kwargs)

    def _start(
        self, args: tuple[Any, ...], kwargs: dict[str, Any] | None, line_up: bool = False
    ) -> Coroutine[Any, Any, Any]:
        entered = time.monotonic()
        try:
            core = self._predictor._open_core()
            started = core.start(args, kwargs, self._priority, self._deadline, line_up)
            if isinstance(started, _core.AwaitedCall):
                return started
            # Learning runs the model some times, and a turn is waited for.
            expires = None if self._deadline is None else entered + self._deadline
            call = functools.partial(self._call_in_thread, args, kwargs or {}, expires, started)
            made = asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, call)
        except Exception as error:
            return _core.failed_call(error)
        return _outcome(made, expires, started)

    def _call_in_thread(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], expires: float | None, turn: _core.Turn | None
    ) -> Any:
        left = None if expires is None else expires - time.monotonic()
        try:
            with torch.no_grad():  # the caller's mode was looked at, and is another thread's
                return self._predictor._open_core().call(args, kwargs, self._priority, left, turn, True)
        except StopIteration as error:  # asyncio's futures do not take it, and whoever awaits one would wait for ever
            raise RuntimeError(f"the model raised {error!r}") from error

    def amap(
        self, iterable: Iterable[Any], *, buffersize: int | None = None, return_exceptions: bool = False
    ) -> AsyncGenerator[Any, None]:
        """As map over one iterable, for `async for`: results in order, at most `buffersize` calls in flight."""
        ahead = self._calls_ahead(buffersize)
        return aio.map_calls(self._start_input, self._inputs().map((iterable,)), ahead, return_exceptions)

    def _start_input(self, call: mapping.Input) -> Coroutine[Any, Any, Any]:
        if isinstance(call, mapping.Settled):
            return _settled(call)
        return self._start(call, None, True) if isinstance(call, tuple) else self._start((), call, True)

    def _inputs(self) -> Inputs:
        """Reads what one map iterates over."""
        return Inputs(self._predictor.model, self._predictor._options.examples, self)

    def _calls_ahead(self, buffersize: int | None) -> int:
        if buffersize is not None and (not isinstance(buffersize, int) or buffersize < 1):
            raise ValueError(f"buffersize must be an int of at least 1, or None, got {buffersize!r}")
        return buffersize or self._predictor._look_ahead()


# For libraries that ask whether they are to await what a function gives.
if sys.version_info >= (3, 12):
    inspect.markcoroutinefunction(Calls.acall)
else:
    Calls.acall._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


class View(Calls[P, R]):
    """A predictor seen at another priority and deadline; made by `Predictor.options`."""

    def __init__(self, predictor: Callee, priority: int, deadline: float | None) -> None:
        self._viewed = predictor
        self._priority = priority
        self._deadline = deadline

    @property
    def _predictor(self) -> Callee:
        return self._viewed

    def __repr__(self) -> str:
        return f"<{self._predictor!r} at priority={self._priority}, deadline={self._deadline}>"

    if not TYPE_CHECKING:  # to a type checker every attribute would be there

        def __getattr__(self, name: str) -> Any:
            text = f"a view of a predictor has no attribute {name!r}"
            if not name.startswith("_") and hasattr(type(self._viewed), name):
                text = f"{text}, but the predictor has: call it on what options() was called on"
            raise AttributeError(text, name=name, obj=self)


async def _outcome(made: asyncio.Future[Any], expires: float | None, turn: _core.Turn | None) -> Any:
    """That of a call which a thread makes, or is to make."""
    try:
        # The deadline ends it, too, where all of the loop's threads are taken.
        async with asyncio.timeout(None if expires is None else max(0.0, expires - time.monotonic())):
            return await made
    finally:
        if turn is not None:
            turn.drop()  # where no thread has begun it: nobody is to wait for it


async def _settled(outcome: mapping.Settled) -> Any:
    return outcome.result()
