"""options(deadline=) beside cancellation, shutdown, dropped executors, full queues and broken ones."""

from __future__ import annotations

import concurrent.futures
import gc
from typing import Any

import pytest
from executor_support import LONG, SOON, blocked, expired, freed, hold_thread, pass_time, run_program, wait_until
from support import HANG, Gate, assert_clean

import torchpool

TORCHPOOL_ONLY = True  # the standard one has no deadlines


@pytest.fixture
def executor(make_executor: Any) -> Any:
    return make_executor(1)


# --- other ends -------------------------------------------------------------------------------------------------------


def test_a_task_that_was_cancelled_does_not_expire(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    future = executor.options(deadline=SOON).submit(int)
    assert future.cancel()
    pass_time(3 * SOON)
    assert future.cancelled()
    stats = executor.stats()
    assert (stats["cancelled"], stats["expired"]) == (1, 0)


def test_an_expired_task_cannot_be_cancelled(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    future = executor.options(deadline=SOON).submit(int)
    assert expired(future)
    assert not future.cancel()
    assert executor.stats()["cancelled"] == 0


def test_tasks_expire_after_a_shutdown_that_does_not_wait(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    future = executor.options(deadline=5 * SOON).submit(int)
    executor.shutdown(wait=False)
    assert expired(future)


def test_tasks_expire_while_a_shutdown_waits(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    future = executor.options(deadline=5 * SOON).submit(int)
    ending = blocked(executor.shutdown)
    assert expired(future)
    assert ending.thread.is_alive()
    gate.open()
    ending.value()


def test_a_shutdown_that_cancels_leaves_nothing_to_expire(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    futures = [executor.options(deadline=SOON).submit(int) for _ in range(3)]
    executor.shutdown(wait=False, cancel_futures=True)
    pass_time(3 * SOON)
    assert all(future.cancelled() for future in futures)
    assert executor.stats()["expired"] == 0


def test_a_shutdown_does_not_wait_for_deadlines(executor: Any) -> None:
    future = executor.options(deadline=LONG).submit(abs, -2)
    executor.shutdown()
    assert future.result(0) == 2


def test_a_deadline_keeps_no_executor_alive(make_executor: Any, no_gc: None) -> None:
    executor = make_executor(1)
    executor.options(deadline=LONG).submit(int).result(HANG)
    gone = freed(executor)
    del executor
    assert gone.wait(HANG)


def test_what_waits_in_a_dropped_executor_expires(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    held = hold_thread(executor, gate)
    future = executor.options(deadline=5 * SOON).submit(int)
    del executor
    gc.collect()
    assert expired(future)
    assert not held.done(), "it was a thread that found it expired"


def test_a_full_queue_counts_none_that_has_expired(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1, overflow="reject")
    hold_thread(executor, gate)
    assert expired(executor.options(deadline=SOON).submit(int))
    waiting = executor.submit(abs, -1)
    gate.open()
    assert waiting.result(HANG) == 1


def test_a_submitter_that_waits_for_room_gets_the_place_of_an_expired_task(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1)
    hold_thread(executor, gate)
    first = executor.options(deadline=10 * SOON).submit(int)
    waiting = blocked(executor.submit, abs, -1)
    assert expired(first)
    future = waiting.value()
    gate.open()
    assert future.result(HANG) == 1


def test_a_task_that_waited_for_room_past_its_deadline_fails(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1)
    held = hold_thread(executor, gate)
    first = executor.submit(int)
    waiting = blocked(executor.options(deadline=SOON).submit, int)
    pass_time(3 * SOON)
    assert first.cancel()
    assert expired(waiting.value())
    assert held.running()


def test_a_broken_executor_has_nothing_to_expire(make_executor: Any, gate: Gate) -> None:
    def broken() -> None:
        gate.pass_through()
        raise ValueError

    executor = make_executor(1, initializer=broken)
    future = executor.options(deadline=SOON * 100).submit(int)
    gate.open()
    assert isinstance(future.exception(HANG), concurrent.futures.BrokenExecutor)
    assert executor.stats()["expired"] == 0


def test_random_deadlines_leave_nothing_open(make_executor: Any) -> None:
    executor = make_executor(2)
    futures = [executor.options(deadline=0.0001 * (1 + n % 50)).submit(abs, -n) for n in range(2000)]
    outcomes = [future.exception(HANG) for future in futures]
    assert all(error is None or isinstance(error, TimeoutError) for error in outcomes)
    wait_until(lambda: executor.stats()["resolved"] == 2000)
    assert executor.stats()["expired"] == sum(error is not None for error in outcomes)


def test_a_program_ends_with_deadlines_outstanding() -> None:
    program = 'executor = ThreadPoolExecutor(1)\nexecutor.options(deadline=1000.0).submit(print, "done")'
    done = run_program(torchpool.ThreadPoolExecutor, program)
    assert_clean(done)
    assert done.stdout == "done\n"
