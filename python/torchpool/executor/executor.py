"""torchpool.ThreadPoolExecutor: the standard library's executor with a native queue, futures and workers."""

from __future__ import annotations

import concurrent.futures.thread
import itertools
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

from torchpool import _core
from torchpool.executor import hooks
from torchpool.executor.entered_calls import EnteredCalls, entered_calls
from torchpool.executor.expiry import Expiry
from torchpool.executor.map import SubmitAll, buffered_results, by_submit, results
from torchpool.executor.periodic import Periodic
from torchpool.executor.predictor_calls import PredictorCalls, after_fork_in_child, finish_predictor_calls
from torchpool.executor.threads import BROKEN, Initializer, default_workers, serve
from torchpool.executor.view import ExecutorView
from torchpool.predictor import Calls, Predictor, View, check_options
from torchpool.runtime import Child, Exit, at_exit, in_child

standard: Any = concurrent.futures.thread  # its names that begin with an underscore, too
_executors: weakref.WeakSet[ThreadPoolExecutor] = weakref.WeakSet()


class ThreadPoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """A concurrent.futures.ThreadPoolExecutor in every respect, several times faster, with predictors as its fast path.

    `max_workers`, `thread_name_prefix`, `initializer` and `initargs` are the standard's. Tasks that wait for a
    predictor do not count against max_workers, up to `overlap` of them, so that the calls of an ordinary loop body fill
    batches: more than max_workers tasks may then be open at once, each on a thread of its own, and those whose result
    has come go on at once. None: as many as fill the batches that the predictor has learned to make, 32 at most; none
    with an initializer or max_workers=1. 0 forbids it. `queue_size`: at most so many tasks wait; submit() blocks then,
    or raises QueueFull with overflow="reject" (tasks submitted by tasks are always taken; `submit` on an event loop's
    thread would block the loop).

    What differs from the standard: a cancelled task leaves its queue at once; a task that waits for another one of the
    same executor by result() or exception() without a limit, when all of its threads do, runs that one itself instead
    of waiting for ever; and in a forked child the executor starts afresh, and what was submitted before the fork fails
    there with BrokenThreadPool.
    """

    __slots__ = ("_handle",)

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        overlap: int | None = None,
        queue_size: int | None = None,
        overflow: str = "block",
    ) -> None:
        if max_workers is None:
            max_workers = default_workers()
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if overlap is not None and (not isinstance(overlap, int) or overlap < 0):
            raise ValueError(f"overlap must be an int of at least 0, or None, got {overlap!r}")
        if overlap is None and initializer is not None:
            overlap = 0  # what it prepares for each thread is to be had max_workers times
        if queue_size is not None and (not isinstance(queue_size, int) or queue_size < 1):
            raise ValueError(f"queue_size must be an int of at least 1, or None, got {queue_size!r}")
        if overflow not in ("block", "reject"):
            raise ValueError(f"overflow must be 'block' or 'reject', got {overflow!r}")
        self._pool = _core.TaskPool(max_workers, overlap, queue_size or 0, overflow == "reject")
        self._handle = self._pool.handle()
        self._threads: set[threading.Thread] = set()
        self._shutdown_lock = threading.Lock()
        self._thread_name_prefix = thread_name_prefix or f"ThreadPoolExecutor-{self._counter()}"  # type: ignore[attr-defined]
        self._thread_numbers = itertools.count()
        self._initializer: Callable[..., object] | None = initializer  # type: ignore[assignment]
        self._initargs = initargs
        self._expiry = Expiry(self._pool)
        self._periodics: weakref.WeakSet[Periodic] = weakref.WeakSet()
        self._predictor_calls = PredictorCalls(held=initializer is not None)
        _executors.add(self)

    # What the standard has as attributes.

    @property
    def _max_workers(self) -> int:  # type: ignore[override]
        return self._pool.max_workers

    @property
    def _broken(self) -> str | bool:  # type: ignore[override]
        return self._pool.broken

    @property
    def _shutdown(self) -> bool:  # type: ignore[override]
        return self._pool.is_shut_down

    # submit() is native: see cpp/bindings/executor/bind_executor.cpp.

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """As concurrent.futures.Executor.map, with `buffersize` on every version of Python: at most so many results are
        computed ahead of those taken. A predictor's calls go to it directly and fill whole batches."""
        return self._map(fn, iterables, timeout, buffersize, 0, None)

    def _map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        buffersize: int | None,
        priority: int,
        deadline: float | None,
    ) -> Iterator[Any]:
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        until = None if timeout is None else timeout + time.monotonic()
        as_view = priority != 0 or deadline is not None  # whose submit() is not the executor's either
        native = as_view or (type(self).submit is ThreadPoolExecutor.submit and "submit" not in self.__dict__)
        if native and isinstance(fn, Calls):
            self._pool.check()
            self._start_for_initializer()
            return self._predictor_calls.map(fn, iterables, timeout, buffersize, priority, deadline)
        entered = self._entered_calls(fn, priority, deadline) if native else None
        if entered is not None:
            self._pool.check()
            return self._predictor_calls.map_entered(entered, iterables, timeout, buffersize)
        calls = zip(*iterables, strict=False)
        submit_all = self._submit_each(fn, priority, deadline) if native else by_submit(weakref.ref(self), fn)
        if buffersize is None:
            return results(submit_all(calls), until)
        return buffered_results(submit_all, calls, buffersize, until)

    def _submit_each(self, fn: Callable[..., Any], priority: int, deadline: float | None) -> SubmitAll:
        ref = weakref.ref(self)

        def submit_all(calls: Iterable[tuple[Any, ...]]) -> list[Future[Any]]:
            executor = ref()
            if executor is None:
                return []
            if deadline is not None:  # counts from the submission of each
                return [executor._submit_as(fn, args, {}, priority, deadline) for args in calls]
            return executor._pool.submit_each(executor, fn, calls, priority)

        return submit_all

    def _submit_as(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        priority: int,
        deadline: float | None,
    ) -> Future[Any]:
        """For a view: at its priority and deadline (seconds from now)."""
        if isinstance(fn, Calls):
            return self._submit_call(fn, args, kwargs, priority, deadline)
        entered = self._entered_calls(fn, priority, deadline)
        if entered is not None:
            self._pool.check()
            return self._predictor_calls.submit_entered(entered, args, kwargs)
        return self._submit_task(fn, args, kwargs, priority, deadline)

    def _submit_task(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        priority: int,
        deadline: float | None,
        *,
        bypass: bool = False,
    ) -> _core.Future:
        """For a thread of ours; `bypass`: whatever queue_size says."""
        due = math.inf
        if deadline is not None:
            self._expiry.start()
            due = time.monotonic() + deadline
        future = self._pool.submit(self, fn, args, kwargs, priority, due, bypass)
        self._expiry.at(due)  # once it is queued: the moment may have passed while it waited for room
        return future

    def _submit_call(
        self,
        fn: Calls,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        priority: int = 0,
        deadline: float | None = None,
    ) -> Future[Any]:
        """A predictor's call, which no thread of ours has to wait for."""
        self._pool.check()
        self._start_for_initializer()
        return self._predictor_calls.submit(fn, args, kwargs, priority, deadline)

    def _submit_to_module(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """Of what may be accelerated."""
        return self._submit_as(fn, args, kwargs, 0, None)

    def _entered_calls(self, fn: Callable[..., Any], priority: int, deadline: float | None) -> EnteredCalls | None:
        """None where threads are to run it: with an initializer they may be in a state of their own, too."""
        return entered_calls(fn, self, priority, deadline) if self._initializer is None else None

    # Threads.

    def _start_worker(self, worker: _core.PoolWorker) -> None:
        """Called by the pool when a thread more is needed."""
        with self._shutdown_lock, standard._global_shutdown_lock:
            if standard._shutdown:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            ref = weakref.ref(self, _stopper(self._pool))
            thread = threading.Thread(
                name=f"{self._thread_name_prefix}_{next(self._thread_numbers)}",
                target=serve,
                args=(worker, ref, *_noters(ref), self._make_initializer()),
            )
            try:
                self._note_thread(thread)
                thread.start()
            except BaseException:
                if thread.ident is None:  # should it start after all, it notes itself
                    self._threads.discard(thread)
                    standard._threads_queues.pop(thread, None)
                raise

    def _make_initializer(self) -> Initializer | None:
        if self._initializer is None:
            return None
        pool, calls = self._pool, self._predictor_calls

        def failed(error: Callable[[], Exception]) -> None:
            pool.mark_broken(BROKEN)
            calls.fail(error)

        return Initializer(self._initializer, self._initargs, calls.release, failed)

    def _note_thread(self, thread: threading.Thread) -> None:
        """Called by the one who started it and by itself: a KeyboardInterrupt may keep the former from it."""
        self._threads.add(thread)
        standard._threads_queues[thread] = self._pool

    def _forget_thread(self, thread: threading.Thread) -> None:
        """It left because there are too many."""
        self._threads.discard(thread)

    def _start_for_initializer(self) -> None:
        """A predictor's calls need no thread, but wait for the first that was initialised, if there is something to
        initialise: they fail when that fails."""
        if self._predictor_calls.held and not self._threads:
            self._pool.start(self)

    # More than the standard.

    def resize(self, max_workers: int) -> None:
        """Changes max_workers: threads for waiting tasks start at once, those that are too many end with their task."""
        if not isinstance(max_workers, int) or max_workers <= 0:
            raise ValueError(f"max_workers must be an int greater than 0, got {max_workers!r}")
        self._pool.resize(self, max_workers)

    def options(self, *, priority: int = 0, deadline: float | None = None) -> ExecutorView:
        """A light view whose tasks have this priority (higher first; first in, first out within one) and deadline: what
        has not started so many seconds after its submission fails with TimeoutError."""
        return ExecutorView(self, *check_options(priority, deadline))

    def every(self, interval: float, fn: Callable[..., object], /, *args: Any, **kwargs: Any) -> Periodic:
        """Runs fn(*args, **kwargs) every `interval` seconds until the handle's cancel() or the executor's end."""
        self._pool.check()
        periodic = Periodic(_poster(weakref.ref(self)), interval, fn, args, kwargs)
        self._periodics.add(periodic)
        return periodic

    def stats(self) -> dict[str, Any]:
        """Counts since the start and what waits now: threads, idle and parked ones, tasks, and calls of predictors."""
        calls = self._predictor_calls.pending
        return {"name": self._thread_name_prefix, **self._pool.stats(), "predictor_calls": calls}

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As concurrent.futures.Executor.shutdown; predictors' calls submitted here are finished, or cancelled, too."""
        for periodic in list(self._periodics):
            periodic.cancel()
        self._pool.shut_down(cancel_futures)
        self._predictor_calls.end()
        if cancel_futures:
            self._predictor_calls.cancel_waiting()
        if wait:
            self._predictor_calls.drain()
            self._join()

    def _join(self) -> None:
        joined: set[threading.Thread] = set()
        while True:
            with self._shutdown_lock:  # one that was just about to start has started by now
                threads = self._threads - joined
            if not threads:
                return
            for thread in threads:
                thread.join()
            joined |= threads

    def _after_fork(self, error: Callable[[], Exception]) -> None:
        self._shutdown_lock = threading.Lock()
        self._threads = set()
        self._expiry = Expiry(self._pool)
        for periodic in list(self._periodics):
            periodic._ended = True  # by no method: its lock may be held by a thread that is gone
        self._periodics = weakref.WeakSet()
        self._pool.after_fork(error)

    def __repr__(self) -> str:
        return f"<torchpool.ThreadPoolExecutor {self._thread_name_prefix} max_workers={self._max_workers}>"


# These are kept by threads and maps, none of which is to keep an executor alive.


def _noters(
    ref: weakref.ref[ThreadPoolExecutor],
) -> tuple[Callable[[threading.Thread], None], Callable[[threading.Thread], None]]:
    """What a thread tells when it begins, and when it leaves."""

    def began(thread: threading.Thread) -> None:
        executor = ref()
        if executor is not None:
            executor._note_thread(thread)

    def left(thread: threading.Thread) -> None:
        executor = ref()
        if executor is not None:
            executor._forget_thread(thread)

    return began, left


def _stopper(pool: _core.TaskPool) -> Callable[[object], None]:
    return lambda _: pool.put(None)


def _poster(ref: weakref.ref[ThreadPoolExecutor]) -> Callable[[Callable[[], None]], Future[Any]]:
    def post(fn: Callable[[], None]) -> Future[Any]:
        executor = ref()
        if executor is None:
            raise RuntimeError("the executor is gone")
        return executor._pool.submit(executor, fn, (), {}, bypass=True)

    return post


def _before_exit() -> None:
    # The standard's own hook comes next and waits for threads; a predictor's calls have none.
    with standard._global_shutdown_lock:
        standard._shutdown = True
    finish_predictor_calls()


def _after_fork() -> None:
    def error() -> Exception:
        return BrokenThreadPool("submitted before the fork: the task belongs to the parent process")

    for executor in list(_executors):
        executor._after_fork(error)
    after_fork_in_child(error)


_core.finish_executor_class(ThreadPoolExecutor, (Predictor, View), hooks)
at_exit(Exit.EXECUTORS, _before_exit)
in_child(Child.EXECUTORS, _after_fork)
