"""What the tests of executors share: the two classes, things to run in a task, and ways to wait without sleeping."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from support import HANG, Gate, run_python

import torchpool
from torchpool.executor.timer import default_timer

STANDARD = concurrent.futures.ThreadPoolExecutor
SOON = 0.02  # seconds; a deadline that is to pass
LONG = 1000.0  # one that is not


class Thing:
    """Something that can be referred to weakly."""


class Refused(ValueError):
    """An error that can be referred to weakly."""


class Gates:
    """Makes gates, and opens those that are left closed."""

    def __init__(self) -> None:
        self._made: list[Gate] = []

    def __call__(self) -> Gate:
        self._made.append(Gate())
        return self._made[-1]

    def open_all(self) -> None:
        for gate in self._made:
            gate.open()


def executor_named(name: str) -> Any:
    """The class is looked up late: a test of the standard one needs no other."""
    return STANDARD if name == "standard" else torchpool.ThreadPoolExecutor


def fail(error: BaseException) -> None:
    raise error


def refuse(*args: Any) -> None:
    """Its frame, which the traceback keeps, does not keep the error."""
    raise Refused


def freed(thing: Any) -> threading.Event:
    """Is set once the thing is gone."""
    event = threading.Event()
    weakref.finalize(thing, event.set).atexit = False
    return event


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        threading.Event().wait(0.001)


def wait_until_asleep(thread: threading.Thread) -> None:
    """Until it seems to wait for something. A guess: a wrong one makes a test see less, and never fail."""
    asleep = 0

    def seen_five_times() -> bool:
        nonlocal asleep
        with contextlib.suppress(OSError):
            status = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
            asleep = asleep + 1 if status.rpartition(")")[2].split()[0] == "S" else 0
        return asleep >= 5 or not thread.is_alive()

    wait_until(seen_five_times)


def join(threads: Iterable[threading.Thread]) -> None:
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive(), f"{thread.name} does not end"


class Started:
    """A call on a thread of its own; value() is its result, or raises its error."""

    def __init__(self, work: Callable[..., Any], *args: Any) -> None:
        self._work, self._args = work, args
        self._error: BaseException | None = None
        self._value: Any = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work(*self._args)
        except BaseException as error:
            self._error = error

    def value(self) -> Any:
        join([self.thread])
        if self._error is not None:
            raise self._error
        return self._value


def blocked(work: Callable[..., Any], *args: Any) -> Started:
    """The call is started, and most likely waits by now."""
    started = Started(work, *args)
    wait_until_asleep(started.thread)
    return started


def run_program(executor_class: Any, source: str, *, timeout: float = HANG, fresh: bool = False) -> Any:
    """Runs it in an interpreter of its own, where ThreadPoolExecutor is the class under test."""
    module = "concurrent.futures" if executor_class is STANDARD else "torchpool"
    return run_python(
        f"from {module} import ThreadPoolExecutor\n"
        "import atexit, concurrent.futures, os, signal, sys, threading, time\n"
        f"HANG = {HANG}\n" + source,
        timeout=timeout,
        fresh=fresh,
    )


def hold_threads(executor: Any, gate: Gate, count: int = 1) -> list[Any]:
    """Occupies so many threads until the gate is opened."""
    futures = [executor.submit(gate.pass_through) for _ in range(count)]
    gate.wait_entered(count)
    return futures


def hold_thread(executor: Any, gate: Gate) -> Any:
    """Occupies one."""
    return hold_threads(executor, gate)[0]


def expired(future: Any) -> bool:
    return isinstance(future.exception(HANG), TimeoutError)


def pass_time(seconds: float) -> None:
    """Until so much has passed, and the timer has called whatever was due."""
    came = threading.Event()
    timer = default_timer()
    timer.call_at(timer.now() + seconds, came.set)
    assert came.wait(HANG)
