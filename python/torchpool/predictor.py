"""The predictor: a model's stand-in that answers calls in shared batches."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any

import torch

from torchpool import _core, aio, mapping
from torchpool.arguments import Call, as_call
from torchpool.batch_size import first_and_most
from torchpool.contract import Contract
from torchpool.futures import Future
from torchpool.graphs import Graphs
from torchpool.learner import Learner
from torchpool.report import Explanation, explain
from torchpool.runtime import Runtime, default_runtime
from torchpool.schedule import Schedule

if TYPE_CHECKING:
    from torchpool.wrap import Options

_NOT_PROBED = "a plain callable is not probed unless example= or batch= is given (probing runs it about a dozen times)"


class Calls:
    """The ways to call a predictor, each at the same priority and deadline."""

    _priority: int = 0
    _deadline: float | None = None

    @property
    def _predictor(self) -> Predictor:
        raise NotImplementedError

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """The model's output for these arguments, computed in a batch with other calls'.

        Raises what the model raises for this call alone; TypeError or ValueError for arguments that it refuses;
        QueueFull, Closed; TimeoutError past the deadline.
        """
        return self._predictor._open_core().call(args, kwargs, self._priority, self._deadline)

    def submit(self, /, *args: Any, **kwargs: Any) -> Future:
        """A future of the call. Inputs above 64 KiB must not be written until it is done; smaller ones are copied."""
        future = Future()
        pending = self._submit(args, kwargs, notified=future)
        if pending.ready:
            future._pending = pending
            future._settle()
        return future

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

    def _feed_batch(self, calls: list[Call]) -> list[_core.Pending]:
        return self._predictor._open_core().feed_batch(calls, self._priority, self._deadline)

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
        endless; a tensor or an array is taken row by row. `timeout` counts seconds from this call. With
        `return_exceptions` a failed call's exception stands in its result's place; otherwise it is raised and the
        rest is cancelled, as it is when the iterator is closed early. `progress=True` shows tqdm's bar.

        `schedule` says how calls are parted into batches, as in OpenMP, each perhaps with a chunk of rows behind it
        ("dynamic,16"): "guided" (the default) takes smaller batches, of `chunk` at least, as less is left to share out,
        so that all workers end together; "dynamic" takes whole batches, of `chunk` at most; "static" parts an iterable
        of known length beforehand into equal batches of consecutive calls, `chunk` each, whatever else goes on: with a
        chunk results are the same to the last bit in every run.
        """
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        rows = [mapping.rows_of(iterable) for iterable in iterables]
        calls: Iterator[Any] = ((args, None) for args in zip(*rows, strict=False))
        return self._map(calls, iterables, timeout, buffersize, ordered, progress, return_exceptions, schedule)

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
        """As map, for one iterable of calls: a tuple is positional arguments, a mapping (such as a tokenizer's
        output) keyword arguments."""
        calls = map(_star_call, iterable)
        return self._map(calls, (iterable,), timeout, buffersize, ordered, progress, return_exceptions, schedule)

    def _map(
        self,
        calls: Iterator[Call],
        sources: tuple[Iterable[Any], ...],
        timeout: float | None,
        buffersize: int | None,
        ordered: bool,
        progress: bool,
        return_exceptions: bool,
        schedule: str | None,
    ) -> mapping.MapIterator:
        ahead = self._calls_ahead(buffersize)
        plan = Schedule.parse(schedule)
        batch = None
        if plan.kind == "static":
            if not ordered:
                raise ValueError("schedule='static' gives results in order: leave ordered=True")
            predictor = self._predictor
            batch = plan.calls_a_batch(sources, predictor._first_batch, predictor._used_runtime.workers)
            ahead = max(ahead, 2 * batch * predictor._used_runtime.workers) if buffersize is None else ahead
        sized = [len(source) for source in sources if isinstance(source, Sized)] if progress else []
        return mapping.MapIterator(
            self._submit,
            self._feed(plan),
            calls,
            ahead=ahead,
            timeout=timeout,
            ordered=ordered,
            return_exceptions=return_exceptions,
            bar=mapping.progress_bar(min(sized, default=None)) if progress else None,
            feed_batch=None if batch is None else self._feed_batch,
            batch=batch or 0,
        )

    async def acall(self, /, *args: Any, **kwargs: Any) -> Any:
        """As a call, awaited. Cancelling the task takes the call out of its queue; the loop is never blocked."""
        return await self._start(args, kwargs)

    def _start(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None, line_up: bool = False) -> Awaitable[Any]:
        core = self._predictor._open_core()
        started = core.start(args, kwargs, self._priority, self._deadline, line_up)
        if started is None:
            return asyncio.to_thread(self, *args, **(kwargs or {}))  # learning runs the model some times
        return started

    def amap(
        self, iterable: Iterable[Any], *, buffersize: int | None = None, return_exceptions: bool = False
    ) -> AsyncGenerator[Any, None]:
        """As map over one iterable, for `async for`: results in order, at most `buffersize` calls in flight."""
        ahead = self._calls_ahead(buffersize)
        items = iter(mapping.rows_of(iterable))
        return aio.map_calls(lambda item: self._start((item,), None, True), items, ahead, return_exceptions)

    def _calls_ahead(self, buffersize: int | None) -> int:
        if buffersize is not None and (not isinstance(buffersize, int) or buffersize < 1):
            raise ValueError(f"buffersize must be an int of at least 1, or None, got {buffersize!r}")
        return buffersize or self._predictor._look_ahead


class Predictor(Calls):
    """Answers a model's calls in shared batches; made by `torchpool.wrap`. Thread-safe, picklable.

    A context manager: leaving it waits for what is in flight and closes. Other attributes of the model are reached
    by `predictor.model`.
    """

    def __init__(self, model: Callable[..., Any], options: Options, runtime: Runtime | None) -> None:
        from torchpool.wrap import method_of, module_of

        self._model = model
        self._options = options
        self._runtime = runtime
        self._module = module_of(model)
        self._method = method_of(model)
        self._first_batch, self._most_batch = first_and_most(32, options.max_batch)
        self._saved: tuple[Contract, ...] = options.saved
        self._closed = False
        self.__wrapped__ = model
        self.__name__ = options.name
        self.__doc__ = model.__doc__
        self._open()
        for args, kwargs in options.examples:
            self._core.learn(args, kwargs)
        if options.backend == "graph" and options.examples and self._graphs is not None:
            self._graphs.require()

    @property
    def _predictor(self) -> Predictor:
        return self  # an attribute would be a cycle: a dropped predictor is to be freed at once

    def _open(self) -> None:
        options = self._options
        self._used_runtime = self._runtime or default_runtime()
        self._generation = self._used_runtime._generation
        probed = self._module is not None or options.examples or options.batch is not None or options.saved
        scripted = options.backend == "torchscript"
        self._graphs = self._make_graphs()
        self._learner = Learner(
            self._model,
            self._module,
            _plain_runner(weakref.ref(self)),
            examples=options.examples,
            batch=options.batch,
            saved=self._saved,
            pad=options.pad,
            alone=None if options.merging and probed else "merging is off (batch=False)" if probed else _NOT_PROBED,
            needs_spec=scripted,
            on_first_batch=_first_batch_setter(weakref.ref(self)) if options.max_batch is None else None,
            graphs=self._graphs,
        )
        self._core = _core.Predictor(
            self._used_runtime._core,
            self._model,
            self._learner,
            name=options.name,
            queue_rows=options.queue_size,
            queue_bytes=options.queue_bytes,
            reject=options.overflow == "reject",
            first_batch=self._first_batch,
            max_batch=self._most_batch,
            max_delay=options.max_delay,
            weight=options.weight,
            modules=self._learner.watched(),
            script=self._module if scripted else None,
            method=self._method,
            by_graph=self._graphs is not None,
        )

    def _make_graphs(self) -> Graphs | None:
        if self._options.backend not in ("auto", "graph") or not self._options.merging:
            return None
        if self._module is None or isinstance(self._module, torch.jit.ScriptModule):
            return None
        return Graphs(self, self._module)

    def _open_core(self) -> _core.Predictor:
        if self._generation != self._used_runtime._generation:
            # This is a forked child: its runtime was started afresh. What was learned is still true.
            _core.leak(self._core)
            self._saved = tuple(self._learner.contracts()) or self._saved
            self._open()
            if self._closed:
                self._core.close(True)
        return self._core

    @property
    def _look_ahead(self) -> int:
        # Enough for every worker to have a full batch running and several more to choose near lengths from.
        rows = self._options.max_batch or self._first_batch
        return max(128, 4 * rows * self._used_runtime.workers)

    def _grow_batch(self, first: int, most: int) -> None:
        self._first_batch = max(first, self._first_batch)
        self._most_batch = max(most, self._most_batch)

    @property
    def model(self) -> Callable[..., Any]:
        """What was wrapped."""
        return self._model

    @property
    def __signature__(self) -> inspect.Signature:
        target = self._model.forward if isinstance(self._model, torch.nn.Module) else self._model
        return inspect.signature(target)

    def options(self, *, priority: int = 0, deadline: float | None = None) -> View:
        """A light view whose calls have this priority (higher first) and deadline (seconds from each call)."""
        if not isinstance(priority, int):
            raise TypeError(f"priority must be an int, got {priority!r}")
        if not -(2**31) <= priority < 2**31:
            raise ValueError(f"priority must fit 32 bits, got {priority!r}")
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline must be a positive number of seconds, or None, got {deadline!r}")
        return View(self, priority, deadline)

    def stats(self) -> dict[str, Any]:
        """Counts since the start, what waits and runs now, and times in seconds (mean, p50, p99, max)."""
        return {"name": self._options.name, "workers": self._used_runtime.workers, **self._open_core().stats()}

    def explain(self, *, verbose: bool = False, profile: bool = False) -> Explanation:
        """How calls are served and why: backend, contract, and for each choice not taken the reason. `verbose` adds the
        graphs' programs, an instruction a line; `profile` also runs each some times, with one intra-op thread and
        as many rows of its first calls as a batch has at most, and adds the time of each instruction."""
        core = self._open_core()
        captured = {} if self._graphs is None else self._graphs.captured
        programs: list[str] = []
        if self._graphs is not None and (verbose or profile):
            programs = self._graphs.texts(self._first_batch if profile else None)
        return explain(self._options.name, core.backend, self._most_batch, self._learner, captured, programs)

    def ready(self, timeout: float | None = None) -> bool:
        """Waits until what was learned so far is served in the way it will be: captured, proven, and switched over.
        Calls need not wait for it. False when `timeout` seconds passed first."""
        return self._graphs is None or self._graphs.wait(timeout)

    def refresh(self) -> None:
        """Forgets what was learned, for a module that was changed in a way that its calls do not show."""
        self._saved = ()
        self._learner.forget()
        self._open_core().forget_learned()

    def close(self, wait: bool = True, cancel_pending: bool = False) -> None:
        """Refuses calls from now on. What is in flight is finished, or with `cancel_pending` what has not started
        fails with Closed; `wait` waits for it. Idempotent."""
        self._closed = True
        core = self._open_core()
        core.close(cancel_pending)
        if wait and not _core.on_worker_thread():  # a model that closes its own predictor cannot wait for itself
            core.wait_drained()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._runtime is not None:
            raise TypeError(
                "a predictor on a Runtime of its own cannot be pickled; wrap without runtime= or wrap again"
            )
        return _rebuild, (self._model, self._options, tuple(self._learner.contracts()), self._most_batch)

    def __repr__(self) -> str:
        return f"<torchpool.Predictor {self._options.name} ({self._core.backend}){' closed' if self._closed else ''}>"


class View(Calls):
    """A predictor seen at another priority and deadline; made by `Predictor.options`."""

    def __init__(self, predictor: Predictor, priority: int, deadline: float | None) -> None:
        self._viewed = predictor
        self._priority = priority
        self._deadline = deadline

    @property
    def _predictor(self) -> Predictor:
        return self._viewed

    def __repr__(self) -> str:
        return f"<{self._predictor!r} at priority={self._priority}, deadline={self._deadline}>"


def _rebuild(model: Callable[..., Any], options: Options, contracts: tuple[Contract, ...], max_batch: int) -> Predictor:
    if contracts and options.merging:
        options = dataclasses.replace(options, saved=contracts, max_batch=max_batch)
    return Predictor(model, options, None)


def _star_call(item: Any) -> Call:
    if isinstance(item, tuple | Mapping):
        return as_call(item)
    raise TypeError(
        f"starmap() takes tuples of positional or mappings of keyword arguments, got {type(item).__name__}; "
        "for single arguments use map()"
    )


# The learner must not keep its predictor: a dropped predictor is to be freed at once, not by the cycle collector.


def _plain_runner(ref: weakref.ref[Predictor]) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        predictor = ref()
        assert predictor is not None
        return predictor._core.run_plain(args, kwargs)

    return run


def _first_batch_setter(ref: weakref.ref[Predictor]) -> Callable[[int], None]:
    def set_first_batch(rows: int) -> None:
        predictor = ref()
        if predictor is not None:
            predictor._first_batch, predictor._most_batch = first_and_most(rows, None)
            predictor._core.set_batch(predictor._first_batch, predictor._most_batch)

    return set_first_batch
