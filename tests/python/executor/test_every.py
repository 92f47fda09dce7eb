"""every(): runs on the executor's threads, at its pace, until its end. The clock is turned by hand."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from executor_support import Gates, Refused, blocked, fail, freed, run_program, wait_until
from manual_clock import ManualClock
from support import HANG, Gate, MarkerModule, assert_clean, assert_close, build, eager, row

import torchpool
from torchpool.executor.timer import Timer

TORCHPOOL_ONLY = True  # the standard one does nothing by itself


@pytest.fixture
def clock(monkeypatch: Any) -> Iterator[ManualClock]:
    clock = ManualClock()
    timer = Timer(clock)
    monkeypatch.setattr("torchpool.executor.periodic.default_timer", lambda: timer)
    yield clock
    timer.close()


@pytest.fixture
def executor(make_executor: Any) -> Any:
    return make_executor(1)


class Runs:
    """Counts its calls; expect() waits for so many more."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.threads: list[threading.Thread] = []
        self._came = threading.Semaphore(0)

    def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        self.calls.append((args, kwargs))
        self.threads.append(threading.current_thread())
        self._came.release()

    def expect(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._came.acquire(timeout=HANG), "it does not run"


def settle(executor: Any) -> None:
    """Until everything posted has run, on an executor with one thread."""
    executor.submit(int).result(HANG)


def test_it_runs_once_an_interval_on_a_thread_of_the_executor(executor: Any, clock: ManualClock) -> None:
    runs = Runs()
    handle = executor.every(10, runs)
    assert runs.calls == []
    for number in range(1, 4):
        clock.advance(10)
        runs.expect()
        assert handle.runs == number
        settle(executor)
    assert set(runs.threads) <= executor._threads


def test_arguments_and_keywords_are_passed_on(executor: Any, clock: ManualClock) -> None:
    runs = Runs()
    executor.every(1, runs, 1, 2, fn=3, interval=4, self=5)
    clock.advance(1)
    runs.expect()
    assert runs.calls == [((1, 2), {"fn": 3, "interval": 4, "self": 5})]


def test_nothing_runs_before_the_first_interval_is_over(executor: Any, clock: ManualClock) -> None:
    runs = Runs()
    executor.every(10, runs)
    clock.advance(9.9)
    settle(executor)
    assert runs.calls == []
    assert executor.stats()["accepted"] == 1


def test_after_cancel_nothing_runs(executor: Any, clock: ManualClock) -> None:
    runs = Runs()
    handle = executor.every(1, runs)
    clock.advance(1)
    runs.expect()
    assert handle.cancel()
    clock.advance(5)
    settle(executor)
    assert len(runs.calls) == 1
    assert handle.cancelled


def test_a_run_that_waits_for_a_thread_is_cancelled_with_it(executor: Any, clock: ManualClock, gate: Gate) -> None:
    executor.submit(gate.pass_through)
    gate.wait_entered()
    runs = Runs()
    handle = executor.every(1, runs)
    clock.advance(1)
    assert executor.stats()["waiting"] == 1
    handle.cancel()
    assert executor.stats()["waiting"] == 0
    gate.open()
    settle(executor)
    assert runs.calls == []


def test_a_run_may_cancel_its_own_schedule(executor: Any, clock: ManualClock) -> None:
    handles: list[Any] = []
    runs = Runs()

    def once() -> None:
        handles[0].cancel()
        runs()

    handles.append(executor.every(1, once))
    clock.advance(1)
    runs.expect()
    clock.advance(3)
    settle(executor)
    assert len(runs.calls) == 1
    assert handles[0].failures == 0


def test_runs_do_not_overlap_where_threads_are_free(make_executor: Any, clock: ManualClock, gate: Gate) -> None:
    executor = make_executor(4)
    handle = executor.every(1, gate.pass_through)
    clock.advance(1)
    gate.wait_entered()
    clock.advance(1)
    clock.advance(1)
    assert (handle.runs, handle.skipped) == (1, 2)
    assert executor.stats()["accepted"] == 1
    gate.open()
    wait_until(lambda: executor.stats()["resolved"] == 1)
    clock.advance(1)
    wait_until(lambda: handle.runs == 2)
    assert handle.skipped == 2


def test_one_run_at_most_waits_while_all_threads_are_held(executor: Any, clock: ManualClock, gate: Gate) -> None:
    executor.submit(gate.pass_through)
    gate.wait_entered()
    handle = executor.every(1, int)
    for _ in range(5):
        clock.advance(1)
    assert executor.stats()["waiting"] == 1
    assert (handle.runs, handle.skipped) == (0, 4)


def test_an_exception_is_counted_and_logged_and_the_next_run_comes(
    executor: Any, clock: ManualClock, caplog: Any
) -> None:
    handle = executor.every(1, fail, Refused("no"))
    with caplog.at_level(logging.ERROR, "torchpool"):
        for _ in range(2):
            clock.advance(1)
            settle(executor)
    assert (handle.runs, handle.failures, handle.cancelled) == (2, 2, False)
    assert [record.exc_info[0] for record in caplog.records] == [Refused, Refused]


def test_several_schedules_run_side_by_side(executor: Any, clock: ManualClock) -> None:
    order: list[str] = []
    executor.every(2, order.append, "two")
    executor.every(3, order.append, "three")
    for _ in range(6):
        clock.advance(1)
        settle(executor)
    assert order[:3] == ["two", "three", "two"]
    assert sorted(order[3:]) == ["three", "two"]


# --- the executor's end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [True, False])
def test_a_shutdown_ends_it(executor: Any, clock: ManualClock, wait: bool) -> None:
    runs = Runs()
    handle = executor.every(1, runs)
    clock.advance(1)
    runs.expect()
    executor.shutdown(wait=wait)
    assert handle.cancelled
    clock.advance(5)
    assert len(runs.calls) == 1


def test_a_shutdown_cancels_a_run_that_waits(executor: Any, clock: ManualClock, gate: Gate) -> None:
    executor.submit(gate.pass_through)
    gate.wait_entered()
    runs = Runs()
    executor.every(1, runs)
    clock.advance(1)
    executor.shutdown(wait=False)
    gate.open()
    executor.shutdown()
    assert runs.calls == []
    assert executor.stats()["cancelled"] == 1


def test_a_shutdown_waits_for_a_run(executor: Any, clock: ManualClock, gate: Gate) -> None:
    done: list[int] = []
    executor.every(1, lambda: (gate.pass_through(), done.append(1)))
    clock.advance(1)
    gate.wait_entered()
    ending = blocked(executor.shutdown)
    assert ending.thread.is_alive()
    gate.open()
    ending.value()
    assert done == [1]


def test_a_run_may_shut_its_executor_down(executor: Any, clock: ManualClock) -> None:
    handle = executor.every(1, executor.shutdown, False)
    clock.advance(1)
    wait_until(lambda: executor._shutdown and handle.cancelled)
    assert handle.failures == 0


def test_after_a_shutdown_none_is_made(executor: Any, clock: ManualClock) -> None:
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.every(1, int)


def test_leaving_the_context_ends_it(make_executor: Any, clock: ManualClock) -> None:
    with make_executor(1) as executor:
        handle = executor.every(1, int)
    assert handle.cancelled


def test_it_keeps_no_executor_alive(make_executor: Any, clock: ManualClock, no_gc: None) -> None:
    executor = make_executor(1)
    handle = executor.every(1, int)
    clock.advance(1)
    wait_until(lambda: handle.runs == 1)
    settle(executor)
    gone = freed(executor)
    del executor
    assert gone.wait(HANG)


def test_it_ends_when_the_executor_is_collected(make_executor: Any, clock: ManualClock) -> None:
    executor = make_executor(1)
    runs = Runs()
    handle = executor.every(1, runs)
    clock.advance(1)
    runs.expect()
    settle(executor)
    gone = freed(executor)
    del executor
    gc.collect()
    assert gone.wait(HANG)
    clock.advance(5)
    assert handle.cancelled
    assert len(runs.calls) == 1


def test_it_goes_on_when_its_handle_is_dropped(executor: Any, clock: ManualClock) -> None:
    runs = Runs()
    executor.every(1, runs)
    gc.collect()
    for _ in range(2):
        clock.advance(1)
        runs.expect()
        settle(executor)


def test_it_ends_when_the_initializer_fails(make_executor: Any, clock: ManualClock, caplog: Any) -> None:
    executor = make_executor(1, initializer=fail, initargs=(Refused(),))
    handle = executor.every(1, int)
    clock.advance(1)
    wait_until(lambda: executor._broken)
    clock.advance(1)
    assert handle.cancelled
    assert handle.runs == 0


def test_it_ignores_the_bound_of_a_queue(make_executor: Any, clock: ManualClock, gate: Gate) -> None:
    """The timer's thread must not wait."""
    executor = make_executor(1, queue_size=1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    executor.submit(int)
    handle = executor.every(1, int)
    clock.advance(1)
    assert executor.stats()["waiting"] == 2
    gate.open()
    wait_until(lambda: handle.runs == 1)


def test_runs_may_submit_and_wait(executor: Any, clock: ManualClock) -> None:
    results: list[int] = []
    executor.every(1, lambda: results.append(executor.submit(abs, -3).result()))
    clock.advance(1)
    wait_until(lambda: results)
    assert results == [3]


def test_runs_may_call_predictors(executor: Any, clock: ManualClock) -> None:
    results: list[Any] = []
    with torchpool.wrap(build(MarkerModule), example=row()) as predict:
        executor.every(1, lambda: results.append(predict(row(1))))
        clock.advance(1)
        wait_until(lambda: results)
        assert_close(results[0], eager(predict.model, row(1)))


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf")])
def test_an_interval_must_be_positive_and_finite(executor: Any, interval: float) -> None:
    with pytest.raises(ValueError, match="interval must be a positive, finite number of seconds"):
        executor.every(interval, int)


@pytest.mark.parametrize("interval", ["1", None])
def test_an_interval_must_be_a_number(executor: Any, interval: Any) -> None:
    with pytest.raises(TypeError, match="interval must be a number of seconds"):
        executor.every(interval, int)


def test_what_runs_must_be_callable(executor: Any) -> None:
    with pytest.raises(TypeError, match="fn must be callable"):
        executor.every(1, 3)


# --- with the real clock ----------------------------------------------------------------------------------------------


def test_it_runs_by_the_real_clock(executor: Any, gates: Gates) -> None:
    runs = Runs()
    handle = executor.every(0.002, runs)
    runs.expect(5)
    handle.cancel()
    settle(executor)
    count = handle.runs
    settle(executor)
    assert handle.runs == count == len(runs.calls) >= 5


@pytest.mark.parametrize("end", ["", "executor.shutdown()", "del executor"])
def test_a_program_ends_with_a_schedule_outstanding(end: str) -> None:
    program = f"""
came = threading.Semaphore(0)
executor = ThreadPoolExecutor(2)
executor.every(0.001, came.release)
executor.every(1000.0, int)
for _ in range(3):
    assert came.acquire(timeout=HANG)
{end}
"""
    assert_clean(run_program(torchpool.ThreadPoolExecutor, program))
