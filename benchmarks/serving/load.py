"""Calls from one event loop: as many as are answered, or at moments that were drawn beforehand.

Latency counts from the moment at which a call was due, not from when the loop got around to it, so that a layer that
holds up the loop is charged for it.
"""

import asyncio
import ctypes
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.scheduling.load import percentile

Answer = Any  # a row of the output, or [1, ...]
Call = Callable[[int], Awaitable[Answer]]  # of an item by its index

IN_FLIGHT = 256
DRAIN = 10.0  # seconds that are waited for answers after the last call
TOLERANCE = 1e-4  # of the largest value that the model answers with: batches of other sizes round differently


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """Calls back on the event loop at a moment of `time.monotonic()`, to within some 50 us: the loops' own timers are
    rounded up to whole milliseconds."""

    ABSOLUTE = 1

    def __init__(self, callback: Callable[[], None]) -> None:
        self._libc = ctypes.PyDLL(None, use_errno=True)  # the calls are short: the interpreter's lock is kept
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), f"timerfd_create: {os.strerror(ctypes.get_errno())}")
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._ring)

    def set(self, moment: float) -> None:
        seconds, rest = divmod(max(moment, 1e-9), 1)
        timer = _Timer(value=_Timespec(int(seconds), int(rest * 1e9)))
        if self._libc.timerfd_settime(self._fd, self.ABSOLUTE, ctypes.byref(timer), None) < 0:
            raise OSError(ctypes.get_errno(), f"timerfd_settime: {os.strerror(ctypes.get_errno())}")

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set anew since the loop saw it
            return
        self._callback()


@dataclass
class Run:
    """What came of one open loop; all times in seconds."""

    span: float
    """Over which the calls came in."""
    seconds: float = 0.0
    """From the start to the last answer, or until no more was waited for."""
    latency: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    """From the moment at which a call was due to when it was made."""
    answers: list[tuple[int, Answer]] = field(default_factory=list)
    """With the item's index."""
    errors: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    cpu_share: float = 0.0
    """Of one core, spent in the process that makes the calls."""

    def describe(self, expected: Tensor) -> dict[str, Any]:
        return {
            "calls_per_second": len(self.latency) / self.seconds,
            "p50": percentile(self.latency, 0.50),
            "p99": percentile(self.latency, 0.99),
            "p99_late": percentile(self.late, 0.99),
            "calls": len(self.late),
            "span": self.span,
            "errors": sum(self.errors.values()) + self.unanswered,
            "messages": [*self.errors, *([f"no answer in {DRAIN:g} s"] if self.unanswered else [])],
            "cpu_share": self.cpu_share,
            "largest_difference": difference(self.answers, expected),
        }


def difference(answers: list[tuple[int, Answer]], expected: Tensor) -> float:
    """max|answer - expected| of all answers, as a part of max|expected|; inf where a shape differs."""
    if not answers:
        return float("nan")
    row = expected.shape[1:]
    tensors = [torch.from_numpy(y.copy()) if isinstance(y, np.ndarray) else y for _, y in answers]
    if any(tensor.numel() != row.numel() for tensor in tensors):
        return float("inf")
    ours = torch.stack([tensor.reshape(row) for tensor in tensors])
    theirs = expected[[index for index, _ in answers]]
    return float((ours - theirs).abs().max() / expected.abs().max())


async def closed_loop(call: Call, items: int, seconds: float, in_flight: int = IN_FLIGHT) -> float:
    """Calls answered a second when `in_flight` of them always wait; the first quarter of the time is not counted.

    TimeoutError where an answer does not come within DRAIN seconds of the end.
    """
    start = time.monotonic()
    counted_from, end = start + seconds / 4, start + seconds
    counted = 0

    async def caller(index: int) -> None:
        nonlocal counted
        while (now := time.monotonic()) < end:
            await call(index % items)
            index += in_flight
            now = time.monotonic()
            counted += counted_from <= now < end

    async with asyncio.timeout_at(asyncio.get_running_loop().time() + seconds + DRAIN), asyncio.TaskGroup() as group:
        for index in range(in_flight):
            group.create_task(caller(index))
    return counted / (end - counted_from)


async def open_loop(call: Call, items: int, arrivals: list[float]) -> Run:
    """Makes each call when it is due, whatever became of the others; `arrivals` are seconds from the start."""
    run = Run(span=arrivals[-1])
    tasks: set[asyncio.Task[None]] = set()
    all_made = asyncio.Event()
    made = 0

    async def one(number: int, due: float) -> None:
        run.late.append(time.monotonic() - due)
        index = number % items
        try:
            answer = await call(index)
        except Exception as error:
            run.errors[f"{type(error).__name__}: {error}"[:200]] += 1
            return
        run.latency.append(time.monotonic() - due)
        run.answers.append((index, answer))

    def make_due() -> None:
        nonlocal made
        now = time.monotonic()
        while made < len(arrivals) and start + arrivals[made] <= now:
            task = asyncio.ensure_future(one(made, start + arrivals[made]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            made += 1
        if made < len(arrivals):
            alarm.set(start + arrivals[made])
        else:
            all_made.set()

    alarm = Alarm(make_due)
    cpu = time.process_time()
    start = time.monotonic()
    try:
        make_due()
        await all_made.wait()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=DRAIN)
            run.unanswered = len(left)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
    finally:
        alarm.close()
    run.seconds = time.monotonic() - start
    run.cpu_share = (time.process_time() - cpu) / run.seconds
    return run
