"""Runs at a fixed rate: on the grid, one at a time, until they are cancelled. No test waits for real time to pass."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from manual_clock import ManualClock
from support import HANG

from torchpool.executor.periodic import Periodic
from torchpool.executor.timer import Timer


class Tasks:
    """Takes runs as an executor does, and executes them when it is told to."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Callable[[], None], concurrent.futures.Future[Any]]] = deque()
        self.shut_down = False

    def post(self, fn: Callable[[], None]) -> concurrent.futures.Future[Any]:
        if self.shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.waiting.append((fn, future))
        return future

    def run(self) -> int:
        """How many it ran."""
        count = 0
        while self.waiting:
            fn, future = self.waiting.popleft()
            if future.set_running_or_notify_cancel():
                fn()
                future.set_result(None)
                count += 1
        return count


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def timer(clock: ManualClock) -> Iterator[Timer]:
    timer = Timer(clock)
    yield timer
    timer.close()


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


def test_the_first_run_comes_after_one_interval_and_each_next_one_after_another(
    timer: Timer, clock: ManualClock, tasks: Tasks
) -> None:
    times: list[float] = []
    start = clock.now()
    periodic = Periodic(tasks.post, 2.0, lambda: times.append(clock.now() - start), timer=timer)
    for _ in range(9):
        clock.advance(1)
        tasks.run()
    assert times == [2, 4, 6, 8]
    assert (periodic.runs, periodic.skipped, periodic.failures) == (4, 0, 0)


def test_it_passes_the_arguments(timer: Timer, clock: ManualClock, tasks: Tasks) -> None:
    calls: list[Any] = []
    Periodic(tasks.post, 1, lambda *args, **kwargs: calls.append((args, kwargs)), (1, 2), {"key": 3}, timer=timer)
    clock.advance(1)
    tasks.run()
    assert calls == [((1, 2), {"key": 3})]


def test_the_schedule_does_not_drift_when_its_moments_are_seen_late(
    timer: Timer, clock: ManualClock, tasks: Tasks
) -> None:
    start = clock.now()
    times: list[float] = []
    periodic = Periodic(tasks.post, 1.0, lambda: times.append(clock.now() - start), timer=timer)
    for _ in range(4):
        clock.advance(0.7)
        tasks.run()
    assert times == pytest.approx([1.4, 2.1])
    clock.advance(0.2)  # at 3.0
    assert tasks.run() == 1
    assert periodic.runs == 3
    assert periodic.skipped == 0


def test_moments_that_passed_unseen_are_skipped_and_counted(timer: Timer, clock: ManualClock, tasks: Tasks) -> None:
    periodic = Periodic(tasks.post, 1.0, lambda: None, timer=timer)
    clock.advance(5.5)  # as after the machine slept
    assert tasks.run() == 1
    assert (periodic.runs, periodic.skipped) == (1, 4)
    clock.advance(0.5)
    assert tasks.run() == 1
    assert (periodic.runs, periodic.skipped) == (2, 4)


def test_a_moment_is_skipped_while_the_run_before_it_waits(timer: Timer, clock: ManualClock, tasks: Tasks) -> None:
    periodic = Periodic(tasks.post, 1.0, lambda: None, timer=timer)
    for _ in range(4):
        clock.advance(1)
    assert len(tasks.waiting) == 1
    assert (periodic.runs, periodic.skipped) == (0, 3)
    assert tasks.run() == 1
    clock.advance(1)
    assert tasks.run() == 1
    assert (periodic.runs, periodic.skipped) == (2, 3)


def test_a_moment_is_skipped_while_the_run_before_it_runs(timer: Timer, clock: ManualClock) -> None:
    running, finish = threading.Event(), threading.Event()

    def slow() -> None:
        running.set()
        assert finish.wait(HANG)

    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        futures: list[concurrent.futures.Future[Any]] = []

        def post(fn: Callable[[], None]) -> concurrent.futures.Future[Any]:
            futures.append(executor.submit(fn))
            return futures[-1]

        periodic = Periodic(post, 1.0, slow, timer=timer)
        clock.advance(1)
        assert running.wait(HANG)
        clock.advance(1)
        clock.advance(1)
        assert (periodic.runs, periodic.skipped) == (1, 2)
        finish.set()
        concurrent.futures.wait(futures, HANG)
        clock.advance(1)
        concurrent.futures.wait(futures, HANG)
        assert (periodic.runs, periodic.skipped) == (2, 2)


def test_what_it_raises_is_logged_with_its_name_and_counted_and_it_goes_on(
    timer: Timer, clock: ManualClock, tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [ValueError("a bad run"), SystemExit(3)]

    def fail() -> None:
        raise errors[periodic.runs - 1]

    periodic = Periodic(tasks.post, 1.0, fail, timer=timer)
    with caplog.at_level(logging.ERROR, "torchpool"):
        for _ in errors:
            clock.advance(1)
            assert tasks.run() == 1
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == errors
    assert all("fail every 1 s" in record.getMessage() for record in caplog.records)
    assert (periodic.runs, periodic.failures, periodic.cancelled) == (2, 2, False)


def test_nothing_runs_once_it_is_cancelled(timer: Timer, clock: ManualClock, tasks: Tasks) -> None:
    periodic = Periodic(tasks.post, 1.0, lambda: None, timer=timer)
    clock.advance(1)
    assert tasks.run() == 1
    assert periodic.cancel()
    assert not periodic.cancel()
    assert periodic.cancelled
    clock.advance(10)
    assert tasks.run() == 0
    assert periodic.runs == 1
    assert timer.entries == 0


def test_cancelling_takes_back_a_run_that_still_waits(timer: Timer, clock: ManualClock, tasks: Tasks) -> None:
    periodic = Periodic(tasks.post, 1.0, lambda: None, timer=timer)
    clock.advance(1)
    fn, future = tasks.waiting[0]
    assert periodic.cancel()
    assert future.cancelled()
    fn()  # as if it had been taken a moment before
    assert periodic.runs == 0


def test_a_run_may_cancel_its_own_schedule(timer: Timer, clock: ManualClock, tasks: Tasks) -> None:
    periodic = Periodic(tasks.post, 1.0, lambda: periodic.cancel(), timer=timer)
    clock.advance(1)
    assert tasks.run() == 1
    clock.advance(5)
    assert tasks.run() == 0
    assert periodic.runs == 1


def test_it_goes_on_when_its_handle_is_dropped(timer: Timer, clock: ManualClock, tasks: Tasks) -> None:
    called: list[int] = []
    Periodic(tasks.post, 1.0, lambda: called.append(1), timer=timer)
    gc.collect()
    clock.advance(1)
    tasks.run()
    assert called == [1]


def test_it_ends_when_the_executor_takes_no_more(timer: Timer, clock: ManualClock, tasks: Tasks) -> None:
    periodic = Periodic(tasks.post, 1.0, lambda: None, timer=timer)
    tasks.shut_down = True
    clock.advance(1)
    assert periodic.cancelled
    assert not periodic.cancel()
    clock.advance(5)
    assert timer.entries == 0


def test_it_keeps_no_executor_alive_and_ends_with_it(timer: Timer, clock: ManualClock) -> None:
    def poster(ref: weakref.ref[Tasks]) -> Callable[[Callable[[], None]], concurrent.futures.Future[Any]]:
        def post(fn: Callable[[], None]) -> concurrent.futures.Future[Any]:
            tasks = ref()
            if tasks is None:
                raise RuntimeError("the executor is gone")
            return tasks.post(fn)

        return post

    tasks = Tasks()
    gone = weakref.ref(tasks)
    periodic = Periodic(poster(gone), 1.0, lambda: None, timer=timer)
    clock.advance(1)
    tasks.run()
    del tasks
    gc.collect()
    assert gone() is None
    clock.advance(1)
    assert periodic.cancelled
    assert periodic.runs == 1


def test_it_ends_with_its_timer(clock: ManualClock, tasks: Tasks) -> None:
    timer = Timer(clock)
    timer.close()
    with pytest.raises(RuntimeError, match="closed"):
        Periodic(tasks.post, 1.0, lambda: None, timer=timer)


@pytest.mark.parametrize("wrong", [0, -1, 0.0, float("nan"), float("inf")])
def test_an_interval_that_makes_no_sense_is_refused(timer: Timer, tasks: Tasks, wrong: float) -> None:
    with pytest.raises(ValueError, match="interval must be a positive, finite number of seconds, got"):
        Periodic(tasks.post, wrong, lambda: None, timer=timer)


@pytest.mark.parametrize("wrong", ["1", None, 1j])
def test_an_interval_that_is_no_number_is_refused(timer: Timer, tasks: Tasks, wrong: Any) -> None:
    with pytest.raises(TypeError, match="interval must be a number of seconds, got"):
        Periodic(tasks.post, wrong, lambda: None, timer=timer)


def test_what_cannot_be_called_is_refused(timer: Timer, tasks: Tasks) -> None:
    with pytest.raises(TypeError, match="fn must be callable, got 3"):
        Periodic(tasks.post, 1.0, 3, timer=timer)


def test_it_says_what_it_is(timer: Timer, clock: ManualClock, tasks: Tasks) -> None:
    periodic = Periodic(tasks.post, 0.5, tasks.run, timer=timer)
    clock.advance(0.5)
    assert repr(periodic) == "<torchpool.Periodic Tasks.run every 0.5 s, runs=0, skipped=0, failures=0>"
    periodic.cancel()
    assert repr(periodic).endswith("failures=0 cancelled>")
