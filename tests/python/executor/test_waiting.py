"""wait(), as_completed() and many threads at one future."""

from __future__ import annotations

import concurrent.futures
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, as_completed, wait
from typing import Any

import pytest
from executor_support import STANDARD, Gates, Refused, blocked, fail, join
from support import HANG, Gate, run_threads


@pytest.fixture
def held(make_executor: Any, gates: Gates) -> Any:
    """Three futures of three threads, each behind a gate of its own, and the gates."""
    executor = make_executor(3)
    three = [gates() for _ in range(3)]
    futures = [executor.submit(gate.pass_through) for gate in three]
    for gate in three:
        gate.wait_entered()
    return futures, three


def opened(future: Any, gate: Gate) -> Any:
    gate.open()
    future.result(HANG)
    return future


# --- wait -------------------------------------------------------------------------------------------------------------


def test_wait_returns_when_all_are_done(make_executor: Any) -> None:
    executor = make_executor(2)
    futures = [executor.submit(fail, Refused()) if n == 7 else executor.submit(int) for n in range(100)]
    assert wait(futures, HANG) == (set(futures), set())


def test_wait_of_finished_futures_returns_at_once(make_executor: Any) -> None:
    future = make_executor(1).submit(int)
    future.result(HANG)
    assert wait([future], 0) == ({future}, set())


def test_wait_of_nothing_returns_at_once() -> None:
    assert wait([]) == (set(), set())


def test_wait_times_out_with_what_is_done(held: Any) -> None:
    futures, gates = held
    opened(futures[1], gates[1])
    assert wait(futures, 0.01) == ({futures[1]}, {futures[0], futures[2]})


@pytest.mark.parametrize("timeout", [0, -1])
def test_wait_with_no_time_tells_what_is_done(held: Any, timeout: float) -> None:
    futures, gates = held
    opened(futures[1], gates[1])
    assert wait(futures, timeout) == ({futures[1]}, {futures[0], futures[2]})


def test_wait_takes_a_future_twice_and_tells_it_once(held: Any) -> None:
    futures, gates = held
    opened(futures[0], gates[0])
    assert wait([futures[0], futures[1], futures[0], futures[1]], 0.01) == ({futures[0]}, {futures[1]})


def test_wait_for_the_first_returns_at_once_when_one_is_done(held: Any) -> None:
    futures, gates = held
    opened(futures[2], gates[2])
    done, left = wait(futures, HANG, return_when=FIRST_COMPLETED)
    assert (done, left) == ({futures[2]}, {futures[0], futures[1]})


@pytest.mark.parametrize("how", [FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED])
def test_a_blocked_wait_wakes(held: Any, how: str) -> None:
    futures, gates = held
    waiting = blocked(wait, futures[:1], None, how)
    gates[0].open()
    assert waiting.value() == ({futures[0]}, set())


def test_a_blocked_wait_for_the_first_leaves_the_others(held: Any) -> None:
    futures, gates = held
    waiting = blocked(wait, futures, None, FIRST_COMPLETED)
    gates[1].open()
    assert waiting.value() == ({futures[1]}, {futures[0], futures[2]})


def test_a_blocked_wait_for_all_waits_for_the_last(held: Any) -> None:
    futures, gates = held
    waiting = blocked(wait, futures)
    opened(futures[0], gates[0])
    opened(futures[2], gates[2])
    assert waiting.thread.is_alive()
    gates[1].open()
    assert waiting.value() == (set(futures), set())


def test_wait_for_the_first_exception_passes_over_results(make_executor: Any, gates: Gates) -> None:
    executor, first, second = make_executor(3), gates(), gates()
    good = executor.submit(first.pass_through)
    bad = executor.submit(lambda: (second.pass_through(), fail(Refused())))
    last = executor.submit(gates().pass_through)
    waiting = blocked(wait, [good, bad, last], None, FIRST_EXCEPTION)
    opened(good, first)
    assert waiting.thread.is_alive()
    second.open()
    assert waiting.value() == ({good, bad}, {last})


def test_wait_for_the_first_exception_returns_at_once_when_one_has_failed(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(2)
    bad, running = executor.submit(fail, Refused()), executor.submit(gate.pass_through)
    bad.exception(HANG)
    assert wait([bad, running], HANG, FIRST_EXCEPTION) == ({bad}, {running})


def test_wait_for_the_first_exception_of_none_waits_for_all(make_executor: Any) -> None:
    executor = make_executor(2)
    futures = [executor.submit(int) for _ in range(20)]
    assert wait(futures, HANG, FIRST_EXCEPTION) == (set(futures), set())


def test_wait_leaves_no_waiter_behind(held: Any) -> None:
    futures, _ = held
    wait(futures, 0.01)
    assert [future._waiters for future in futures] == [[], [], []]


def test_a_cancelled_future_is_done_for_wait_once_the_worker_came_by(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    running, future = executor.submit(gate.pass_through), executor.submit(int)
    gate.wait_entered()
    future.cancel()
    gate.open()
    assert wait([running, future], HANG) == ({running, future}, set())


@pytest.mark.parametrize("how", [FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED])
def test_a_blocked_wait_hears_of_a_future_that_is_cancelled(make_executor: Any, gate: Gate, how: str) -> None:
    executor = make_executor(1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    future = executor.submit(int)
    waiting = blocked(wait, [future], None, how)
    assert future.cancel()
    gate.open()
    assert waiting.value() == ({future}, set())


def test_wait_takes_futures_of_two_kinds_of_executors(make_executor: Any, gate: Gate) -> None:
    with STANDARD(1) as other:
        futures = [make_executor(1).submit(gate.pass_through), other.submit(gate.pass_through)]
        waiting = blocked(wait, futures)
        gate.open()
        assert waiting.value() == (set(futures), set())


# --- as_completed -----------------------------------------------------------------------------------------------------


def test_as_completed_gives_each_future_once(make_executor: Any) -> None:
    executor = make_executor(2)
    futures = [executor.submit(int) for _ in range(200)]
    given = list(as_completed(futures, HANG))
    assert len(given) == 200
    assert set(given) == set(futures)


def test_as_completed_takes_a_future_twice_and_gives_it_once(make_executor: Any) -> None:
    future = make_executor(1).submit(int)
    assert list(as_completed([future, future], HANG)) == [future]


def test_as_completed_of_nothing_is_empty() -> None:
    assert list(as_completed([])) == []


def test_as_completed_gives_futures_as_they_finish(held: Any) -> None:
    futures, gates = held
    completed = as_completed(futures, HANG)
    for n in (2, 0, 1):
        gates[n].open()
        assert next(completed) is futures[n]


def test_as_completed_keeps_the_order_in_which_futures_finished(held: Any) -> None:
    futures, gates = held
    completed = as_completed(futures, HANG)
    opened(futures[1], gates[1])
    assert next(completed) is futures[1]  # from here on it listens
    opened(futures[2], gates[2])
    opened(futures[0], gates[0])
    assert list(completed) == [futures[2], futures[0]]


def test_as_completed_starts_with_what_is_finished(held: Any) -> None:
    futures, gates = held
    opened(futures[1], gates[1])
    completed = as_completed(futures, HANG)
    assert next(completed) is futures[1]


def test_a_blocked_as_completed_wakes(held: Any) -> None:
    futures, gates = held
    waiting = blocked(next, as_completed(futures))
    gates[1].open()
    assert waiting.value() is futures[1]


def test_as_completed_serves_finished_running_and_pending_futures(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    finished = executor.submit(int)
    finished.result(HANG)
    running = executor.submit(gate.pass_through)
    pending = executor.submit(int)
    completed = as_completed([pending, running, finished], HANG)
    assert next(completed) is finished
    gate.open()
    assert list(completed) == [running, pending]


@pytest.mark.parametrize("timeout", [0.01, 0])
def test_as_completed_times_out_and_counts_what_is_left(held: Any, timeout: float) -> None:
    futures, gates = held
    opened(futures[0], gates[0])
    completed = as_completed(futures, timeout)
    assert next(completed) is futures[0]
    with pytest.raises(TimeoutError, match=r"^2 \(of 3\) futures unfinished$"):
        next(completed)


def test_as_completed_gives_a_cancelled_future_once_the_worker_came_by(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    running, future = executor.submit(gate.pass_through), executor.submit(int)
    gate.wait_entered()
    future.cancel()
    completed = as_completed([running, future], HANG)
    gate.open()
    assert set(completed) == {running, future}


def test_as_completed_leaves_no_waiter_behind(held: Any) -> None:
    futures, gates = held
    completed = as_completed(futures, HANG)
    gates[0].open()
    next(completed)
    completed.close()
    assert [future._waiters for future in futures] == [[], [], []]


def test_as_completed_takes_futures_of_two_kinds_of_executors(make_executor: Any, gate: Gate) -> None:
    with STANDARD(1) as other:
        futures = [other.submit(int), make_executor(1).submit(int)]
        assert set(as_completed(futures, HANG)) == set(futures)


# --- many at one future -----------------------------------------------------------------------------------------------

WAITS = {
    "result": lambda future: future.result(HANG),
    "exception": lambda future: future.exception(HANG),
    "wait": lambda future: wait([future], HANG).done == {future} or future,
    "as_completed": lambda future: list(as_completed([future], HANG)) == [future] or future,
}


def test_eight_threads_get_the_result_of_one_future(make_executor: Any, gate: Gate) -> None:
    future = make_executor(1).submit(lambda: gate.pass_through() or 7)
    waiting = [blocked(future.result, HANG) for _ in range(8)]
    gate.open()
    assert [one.value() for one in waiting] == [7] * 8


def test_threads_that_wait_in_different_ways_all_wake(held: Any) -> None:
    futures, gates = held
    waiting = [blocked(way, futures[0]) for way in WAITS.values()]
    gates[0].open()
    assert [one.value() for one in waiting] == [None, None, True, True]


TOUCHES = {
    "wait": lambda future: wait([future], 0),
    "as_completed": lambda future: next(as_completed([future], 0), None),
    "result": lambda future: future.result(0),
    "condition": lambda future: future._condition.acquire() and future._condition.release(),
    "variables": lambda future: vars(future),
    "waiters": lambda future: future._waiters,
    "inner state": lambda future: future._state,
    "callbacks": lambda future: future._done_callbacks,
    "description": lambda future: repr(future),
    "attribute": lambda future: setattr(future, "foo", 1),
    "callback": lambda future: future.add_done_callback(repr),
    "cancel": lambda future: future.cancel(),
}


@pytest.mark.parametrize("way", WAITS)
@pytest.mark.parametrize("touch", TOUCHES)
def test_who_waits_already_wakes_whatever_others_do_with_the_future(held: Any, way: str, touch: str) -> None:
    futures, gates = held
    waiting = blocked(WAITS[way], futures[0])
    try:
        TOUCHES[touch](futures[0])
    except TimeoutError:
        assert touch in ("as_completed", "result")
    gates[0].open()
    assert waiting.value() in (None, True)


@pytest.mark.parametrize("way", WAITS)
@pytest.mark.parametrize("touch", ["wait", "condition"])
def test_who_waits_later_wakes_after_others_have_looked_inside(held: Any, way: str, touch: str) -> None:
    futures, gates = held
    TOUCHES[touch](futures[0])
    waiting = blocked(WAITS[way], futures[0])
    gates[0].open()
    assert waiting.value() in (None, True)


@pytest.mark.parametrize("way", WAITS)
def test_waiting_while_futures_finish_misses_none(make_executor: Any, way: str) -> None:
    executor = make_executor(2)

    def work(number: int) -> list[Any]:
        return [WAITS[way](executor.submit(int, "7")) for _ in range(200)]

    expected = {"result": 7, "exception": None}.get(way, True)
    assert run_threads(3, work) == [[expected] * 200] * 3


def test_a_future_outlives_its_executor(make_executor: Any) -> None:
    executor = make_executor(1)
    future = executor.submit(int, "7")
    threads = list(executor._threads)
    del executor
    join(threads)
    assert future.result(HANG) == 7
    assert concurrent.futures.wait([future], HANG).done == {future}
