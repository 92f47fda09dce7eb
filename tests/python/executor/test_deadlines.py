"""options(deadline=): what has not started by then fails, whether a thread is free or not."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from typing import Any

import pytest
from executor_support import LONG, SOON, blocked, expired, freed, hold_thread, pass_time
from support import HANG, Gate

TORCHPOOL_ONLY = True  # the standard one has no deadlines


@pytest.fixture
def executor(make_executor: Any) -> Any:
    return make_executor(1)


# --- expiring ---------------------------------------------------------------------------------------------------------


def test_a_task_that_has_not_started_fails_while_every_thread_is_held(executor: Any, gate: Gate) -> None:
    held = hold_thread(executor, gate)
    future = executor.options(deadline=SOON).submit(int)
    with pytest.raises(TimeoutError, match="not started by its deadline"):
        future.result(HANG)
    assert held.running()
    assert future.done()
    assert not future.cancelled()


def test_whoever_waits_without_a_limit_is_woken(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    future = executor.options(deadline=5 * SOON).submit(int)
    waiting = [blocked(future.exception), blocked(future.exception)]
    assert [type(started.value()) for started in waiting] == [TimeoutError] * 2


def test_an_expired_task_never_runs(executor: Any, gate: Gate) -> None:
    held, ran = hold_thread(executor, gate), []
    future = executor.options(deadline=SOON).submit(ran.append, 1)
    assert expired(future)
    gate.open()
    held.result(HANG)
    executor.submit(int).result(HANG)
    assert ran == []


def test_a_task_that_started_runs_on_past_its_deadline(executor: Any, gate: Gate) -> None:
    future = executor.options(deadline=SOON).submit(lambda: gate.pass_through() or "done")
    gate.wait_entered()
    pass_time(3 * SOON)
    assert future.running()
    gate.open()
    assert future.result(HANG) == "done"
    assert executor.stats()["expired"] == 0


def test_a_task_that_starts_in_time_succeeds(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    future = executor.options(deadline=LONG).submit(abs, -3)
    gate.open()
    assert future.result(HANG) == 3


def test_tasks_without_a_deadline_wait_on(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    patient, hasty, patient_too = (
        executor.submit(int),
        executor.options(deadline=SOON).submit(int),
        executor.submit(int),
    )
    assert expired(hasty)
    assert not patient.done()
    assert not patient_too.done()
    gate.open()
    assert patient.result(HANG) == patient_too.result(HANG) == 0


def test_each_task_has_the_deadline_of_its_view(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    deadlines = [LONG, 3 * SOON, LONG, SOON, 2 * SOON]
    futures = [executor.options(deadline=deadline).submit(int) for deadline in deadlines]
    order: list[int] = []
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: order.append(number))
    assert [expired(futures[number]) for number in (3, 4, 1)] == [True] * 3
    assert order == [3, 4, 1]
    assert not futures[0].done()
    assert not futures[2].done()


def test_a_shorter_deadline_that_comes_later_expires_first(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    long = executor.options(deadline=LONG).submit(int)
    assert expired(executor.options(deadline=SOON).submit(int))
    assert expired(executor.options(deadline=SOON).submit(int))
    assert not long.done()


def test_the_deadline_counts_from_the_submission(executor: Any, gate: Gate) -> None:
    view = executor.options(deadline=LONG)
    before = time.monotonic()
    hold_thread(executor, gate)
    view.submit(int)
    assert executor._expiry.due >= before + LONG


def test_a_view_may_be_used_after_its_seconds_have_passed(executor: Any, gate: Gate) -> None:
    view = executor.options(deadline=SOON)
    pass_time(3 * SOON)
    started = view.submit(gate.pass_through)
    gate.wait_entered()
    assert expired(view.submit(int))
    gate.open()
    assert started.result(HANG) is None


def test_the_shortest_deadline_fails_a_task_that_no_thread_takes(executor: Any, gate: Gate) -> None:
    held = hold_thread(executor, gate)
    for _ in range(300):
        assert expired(executor.options(deadline=1e-9).submit(int))
        assert held.running()


@pytest.mark.parametrize("deadline", [1e10, 1e300, float("inf"), 10**12])
def test_the_longest_deadline_fails_nothing(executor: Any, gate: Gate, deadline: float) -> None:
    hold_thread(executor, gate)
    future = executor.options(deadline=deadline).submit(abs, -1)
    assert expired(executor.options(deadline=SOON).submit(int))
    assert not future.done()
    gate.open()
    assert future.result(HANG) == 1


def test_a_priority_does_not_change_the_deadline(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    futures = [executor.options(priority=priority, deadline=SOON).submit(int) for priority in (5, -5, 0)]
    assert all(expired(future) for future in futures)
    assert executor.stats()["waiting"] == 0


def test_expired_tasks_are_counted(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    futures = [executor.options(deadline=SOON).submit(int) for _ in range(5)]
    assert all(expired(future) for future in futures)
    stats = executor.stats()
    assert (stats["expired"], stats["waiting"], stats["failed"], stats["resolved"]) == (5, 0, 0, 5)


def test_thousands_may_expire_together(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    futures = [executor.options(deadline=SOON).submit(int) for _ in range(5000)]
    assert all(expired(future) for future in futures)
    gate.open()
    assert executor.submit(abs, -1).result(HANG) == 1


def test_each_error_is_one_of_its_own(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    one, two = (executor.options(deadline=SOON).submit(int) for _ in range(2))
    assert one.exception(HANG) is not two.exception(HANG)


def test_what_an_expired_task_was_given_is_freed(executor: Any, gate: Gate, no_gc: None) -> None:
    class Thing:
        def __call__(self) -> None: ...

    hold_thread(executor, gate)
    thing = Thing()
    gone = freed(thing)
    future = executor.options(deadline=SOON).submit(thing)
    del thing
    assert expired(future)
    assert gone.wait(HANG)


# --- who is told ------------------------------------------------------------------------------------------------------


def test_callbacks_are_called(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    called: list[Any] = []
    came = threading.Event()
    future = executor.options(deadline=5 * SOON).submit(int)
    future.add_done_callback(called.append)
    future.add_done_callback(lambda _: came.set())
    assert came.wait(HANG)
    assert called == [future]


def test_a_callback_that_raises_does_not_keep_others_from_expiring(executor: Any, gate: Gate, caplog: Any) -> None:
    hold_thread(executor, gate)
    futures = [executor.options(deadline=5 * SOON).submit(int) for _ in range(3)]
    futures[0].add_done_callback(lambda _: 1 / 0)
    assert all(expired(future) for future in futures)
    assert "exception calling callback" in caplog.text


def test_a_callback_may_submit_another_task_with_a_deadline(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    view = executor.options(deadline=SOON)
    chain: list[Any] = []
    came = threading.Event()

    def again(_: Any) -> None:
        if len(chain) == 5:
            came.set()
            return
        chain.append(view.submit(int))
        chain[-1].add_done_callback(again)

    again(None)
    assert came.wait(HANG)
    assert all(expired(future) for future in chain)


def test_wait_returns_when_all_have_expired(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    futures = {executor.options(deadline=SOON).submit(int) for _ in range(3)}
    done, waiting = concurrent.futures.wait(futures, HANG)
    assert (done, waiting) == (futures, set())


def test_wait_for_the_first_exception_returns_at_a_deadline(executor: Any, gate: Gate) -> None:
    held = hold_thread(executor, gate)
    future = executor.options(deadline=SOON).submit(int)
    done, waiting = concurrent.futures.wait({held, future}, HANG, concurrent.futures.FIRST_EXCEPTION)
    assert (done, waiting) == ({future}, {held})


def test_as_completed_yields_what_expires(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    later, sooner = (executor.options(deadline=deadline).submit(int) for deadline in (4 * SOON, SOON))
    assert list(concurrent.futures.as_completed([later, sooner], HANG)) == [sooner, later]


def test_a_future_that_others_have_looked_into_expires_too(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    future = executor.options(deadline=5 * SOON).submit(int)
    assert "_condition" in future.__dict__
    assert expired(future)
    assert executor.stats()["expired"] == 1


def test_a_map_raises_where_a_call_has_expired(executor: Any, gate: Gate) -> None:
    hold_thread(executor, gate)
    results = executor.options(deadline=SOON).map(abs, range(3))
    with pytest.raises(TimeoutError, match="not started by its deadline"):
        next(results)


def test_a_calls_deadline_counts_from_its_submission_in_a_map(executor: Any, gate: Gate) -> None:
    """The iterable takes longer than the deadline."""
    held = hold_thread(executor, gate)

    def numbers() -> Any:
        for n in range(2):
            pass_time(3 * SOON)
            yield n

    results = executor.options(deadline=SOON).map(abs, numbers())
    with pytest.raises(TimeoutError, match="not started by its deadline"):
        next(results)
    assert held.running()


def test_no_call_of_a_map_expires_before_it_was_submitted(executor: Any) -> None:
    def numbers() -> Any:
        for n in range(3):
            pass_time(0.5)
            yield n

    assert list(executor.options(deadline=1.0).map(abs, numbers())) == [0, 1, 2]
