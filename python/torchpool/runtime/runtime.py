"""Workers and cores that all predictors of a process share."""

from __future__ import annotations

import threading
import time
import weakref

from torchpool import _core
from torchpool.call import futures
from torchpool.runtime import lifecycle
from torchpool.runtime.lifecycle import Child, Exit

_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()
_lock = threading.Lock()
_default: Runtime | None = None
_in_forked_child = False
_EXIT_SECONDS = 2.0


class Runtime:
    """Native workers, each with cores to lease.

    `workers` defaults to the cores that this process may use: the affinity mask and a container's CPU quota count,
    hyper-threads do not. Threads start with the first work.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise ValueError(f"workers must be an int of at least 1, got {workers!r}")
        self._requested = workers or 0
        self._threads = 1
        self._closed = False
        self._open()
        _runtimes.add(self)

    def _open(self) -> None:
        self._core = _core.Runtime(self._requested, _core.settle_futures, _core.wake_loops)
        if self._threads > 1:
            self._core.resize(self._core.workers, self._threads)
        if _in_forked_child and not _core.intra_op_team_ended():
            self._core.forbid_inline()
        self._generation = getattr(self, "_generation", -1) + 1

    @property
    def workers(self) -> int:
        """How many batches can run at a time."""
        return self._core.workers

    @property
    def threads_per_worker(self) -> int:
        """Intra-op threads that a batch has at least, where cores are idle; a lone one has all, workers times these."""
        return self._core.cores_per_batch

    def resize(self, workers: int | None = None, threads_per_worker: int | None = None) -> None:
        """Changes how many batches run at a time, and on how many intra-op threads each; None keeps what there is.

        What runs is finished, calls go on being accepted. Fewer workers with more threads suit large models that are
        called seldom; more workers with one thread each have the higher throughput. Raises ValueError below 1, Closed
        after close(), RuntimeError from inside a model that one of its workers runs.
        """
        workers = self.workers if workers is None else workers
        threads = self.threads_per_worker if threads_per_worker is None else threads_per_worker
        for name, value in (("workers", workers), ("threads_per_worker", threads)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
        self._core.resize(workers, threads)
        self._requested, self._threads = workers, threads

    def close(self) -> None:
        """Fails what waits with `Closed`, lets what runs finish, and joins the workers. Idempotent."""
        self._closed = True
        self._core.close()

    def _after_fork(self) -> None:
        # The workers did not survive the fork, and nothing that they held may be touched: the old core is leaked.
        _core.leak(self._core)
        self._open()
        if self._closed:
            self._core.close()

    def __repr__(self) -> str:
        return f"<torchpool.Runtime workers={self.workers} ({_core.describe_topology()})>"


def default_runtime() -> Runtime:
    """The Runtime of every predictor that is not given another."""
    global _default
    with _lock:
        if _default is None:
            _default = Runtime()
        return _default


def _close_all() -> None:
    # User threads, and executors that finish their work at exit, have ended by now and were served.
    for runtime in list(_runtimes):
        runtime.close()
    _core.join_reaped_runtimes()
    _core.stop_reclaimer()
    # A daemon thread that is inside torch when the interpreter goes away aborts the process: torch lets go of the
    # interpreter's lock in destructors. Those in a call of ours get a moment to come back; a stuck one cannot hold us.
    give_up = time.monotonic() + _EXIT_SECONDS
    while any(runtime._core.running_here for runtime in list(_runtimes)) and time.monotonic() < give_up:
        time.sleep(0.001)


def _before_fork() -> None:
    _core.before_fork([runtime._core for runtime in list(_runtimes)])


def _make_afresh() -> None:
    global _lock, _in_forked_child
    _lock = threading.Lock()
    _in_forked_child = True
    _core.after_fork_in_child()


def _open_anew() -> None:
    for runtime in list(_runtimes):
        runtime._after_fork()


lifecycle.at_exit(Exit.RUNTIMES, _close_all)
lifecycle.at_exit(Exit.CALLBACKS, futures.finish_callbacks)
lifecycle.around_fork(_before_fork, _core.after_fork_in_parent)
lifecycle.in_child(Child.EXTENSION, _make_afresh)
lifecycle.in_child(Child.FUTURES, futures.after_fork_in_child)
lifecycle.in_child(Child.RUNTIMES, _open_anew)
