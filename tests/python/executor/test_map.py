"""map(): what is submitted when, what is given in which order, and what is cancelled."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator
from typing import Any

import pytest
from executor_support import Gates, Refused, blocked, fail, wait_until
from support import HANG, Gate


def test_the_results_come_in_the_order_of_the_input(make_executor: Any) -> None:
    assert list(make_executor(3).map(abs, range(-100, 0))) == list(range(100, 0, -1))


def test_a_later_result_waits_for_an_earlier_one(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(2)
    results = executor.map(lambda n: (gate.pass_through() if n == 0 else None, n)[1], range(2))
    waiting = blocked(next, results)
    gate.open()
    assert waiting.value() == 0
    assert next(results) == 1


def test_the_shortest_input_decides(make_executor: Any) -> None:
    assert list(make_executor(2).map(pow, range(10), [2, 2, 2])) == [0, 1, 4]


def test_each_call_takes_one_item_of_each_input(make_executor: Any) -> None:
    assert list(make_executor(2).map(lambda *args: args, "ab", "cd", "ef")) == [("a", "c", "e"), ("b", "d", "f")]


def test_no_items_give_no_results(make_executor: Any) -> None:
    assert list(make_executor(1).map(abs, [])) == []


def test_no_inputs_give_no_results(make_executor: Any) -> None:
    assert list(make_executor(1).map(abs)) == []


def test_all_is_submitted_before_anything_is_asked_for(make_executor: Any) -> None:
    executor, ran = make_executor(1), []
    results = executor.map(ran.append, range(50))
    executor.shutdown()
    assert ran == list(range(50))
    assert list(results) == [None] * 50


def test_the_input_is_read_at_the_call(make_executor: Any, gate: Gate) -> None:
    executor, taken = make_executor(1), []
    executor.submit(gate.pass_through)
    executor.map(abs, (taken.append(n) or n for n in range(20)))
    assert taken == list(range(20))


def test_a_chunk_size_changes_nothing(make_executor: Any) -> None:
    assert list(make_executor(2).map(abs, range(-10, 0), chunksize=3)) == list(range(10, 0, -1))


def test_map_takes_no_other_keywords(make_executor: Any) -> None:
    with pytest.raises(TypeError):
        make_executor(1).map(abs, [1], chunks=3)


def test_a_task_may_map_when_there_is_a_second_thread(make_executor: Any) -> None:
    executor = make_executor(2)
    assert executor.submit(lambda: list(executor.map(abs, range(-3, 0)))).result(HANG) == [3, 2, 1]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_an_error_is_raised_in_its_place(make_executor: Any) -> None:
    results = make_executor(2).map(divmod, [1, 2, 3], [1, 0, 3])
    assert next(results) == (1, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_after_an_error_there_are_no_more_results(make_executor: Any) -> None:
    results = make_executor(2).map(divmod, [1, 2], [0, 1])
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_an_error_cancels_what_has_not_started(make_executor: Any, gate: Gate) -> None:
    executor, ran = make_executor(1), []

    def work(n: int) -> int:
        ran.append(n)
        if n == 1:
            raise Refused
        if n == 2:
            gate.pass_through()
        return n

    results = executor.map(work, range(6))
    assert next(results) == 0
    with pytest.raises(Refused):
        next(results)
    gate.open()
    executor.shutdown()
    assert ran in ([0, 1], [0, 1, 2])  # depends on whether the worker or the cancelling came first


def test_a_stop_iteration_of_a_task_does_not_end_the_results_quietly(make_executor: Any) -> None:
    results = make_executor(1).map(lambda n: fail(StopIteration()), range(3))
    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        list(results)


def broken_input() -> Iterator[int]:
    yield 1
    raise Refused


def test_an_error_of_the_input_is_raised_at_the_call(make_executor: Any) -> None:
    with pytest.raises(Refused):
        make_executor(1).map(abs, broken_input())


def test_what_was_submitted_before_an_error_of_the_input_runs(make_executor: Any) -> None:
    executor, ran = make_executor(1), []
    with pytest.raises(Refused):
        executor.map(ran.append, broken_input())
    executor.shutdown()
    assert ran == [1]


def test_an_input_that_cannot_be_iterated_is_a_type_error_at_the_call(make_executor: Any) -> None:
    with pytest.raises(TypeError):
        make_executor(1).map(abs, 3)


def test_map_after_a_shutdown_raises_at_the_call(make_executor: Any) -> None:
    executor = make_executor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(abs, [1])


# --- timeouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0.01, 0, -1])
def test_a_result_that_takes_too_long_is_a_timeout_error(make_executor: Any, gate: Gate, timeout: float) -> None:
    results = make_executor(1).map(lambda n: gate.pass_through(), range(3), timeout=timeout)
    with pytest.raises(TimeoutError):
        next(results)


def test_a_timeout_that_suffices_changes_nothing(make_executor: Any) -> None:
    assert list(make_executor(2).map(abs, range(-10, 0), timeout=HANG)) == list(range(10, 0, -1))


def test_results_that_are_there_are_given_after_the_timeout(make_executor: Any, gates: Gates) -> None:
    executor, done, held = make_executor(1), gates(), gates()
    end = time.monotonic() + 0.01
    results = executor.map(lambda gate: gate.pass_through(), [done, held], timeout=0.01)
    done.open()
    held.wait_entered()  # so the first is done
    wait_until(lambda: time.monotonic() > end + 0.01)
    assert next(results) is None
    with pytest.raises(TimeoutError):
        next(results)


def test_a_timeout_cancels_what_has_not_started(make_executor: Any, gate: Gate) -> None:
    executor, ran = make_executor(1), []
    results = executor.map(lambda n: (ran.append(n), gate.pass_through()), range(4), timeout=0.01)
    gate.wait_entered()
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()
    executor.shutdown()
    assert ran == [0]


# --- the generator ----------------------------------------------------------------------------------------------------


@pytest.fixture
def started(make_executor: Any, gate: Gate) -> Any:
    """An executor with one thread, what it ran, and results of which one is taken while the second is being made."""
    executor, ran = make_executor(1), []

    def work(n: int) -> int:
        ran.append(n)
        if n == 1:
            gate.pass_through()
        return n

    results = executor.map(work, range(4))
    assert next(results) == 0
    gate.wait_entered()
    return executor, ran, results


def test_results_are_their_own_iterator(make_executor: Any) -> None:
    results = make_executor(1).map(abs, [1])
    assert iter(results) is results


def test_sending_none_gives_the_next_result(started: Any, gate: Gate) -> None:
    _, _, results = started
    gate.open()
    assert [results.send(None) for _ in range(3)] == [1, 2, 3]


def test_closing_cancels_what_has_not_started(started: Any, gate: Gate) -> None:
    executor, ran, results = started
    results.close()
    gate.open()
    executor.shutdown()
    assert ran == [0, 1]


def test_a_closed_generator_gives_no_more(started: Any) -> None:
    _, _, results = started
    results.close()
    assert list(results) == []


def test_throwing_cancels_what_has_not_started_and_raises(started: Any, gate: Gate) -> None:
    executor, ran, results = started
    with pytest.raises(Refused):
        results.throw(Refused())
    gate.open()
    executor.shutdown()
    assert ran == [0, 1]


def test_dropping_a_generator_that_has_started_cancels_what_has_not(make_executor: Any, gate: Gate) -> None:
    executor, ran = make_executor(1), []
    results = executor.map(lambda n: (ran.append(n), gate.pass_through() if n else None)[0], range(4))
    next(results)
    gate.wait_entered()
    del results
    gate.open()
    executor.shutdown()
    assert ran == [0, 1]


def test_dropping_a_generator_that_never_started_cancels_nothing(make_executor: Any, gate: Gate) -> None:
    executor, ran = make_executor(1), []
    executor.submit(gate.pass_through)
    executor.map(ran.append, range(4))
    gate.open()
    executor.shutdown()
    assert ran == list(range(4))


def test_closing_a_generator_that_never_started_cancels_nothing(make_executor: Any, gate: Gate) -> None:
    executor, ran = make_executor(1), []
    executor.submit(gate.pass_through)
    executor.map(ran.append, range(4)).close()
    gate.open()
    executor.shutdown()
    assert ran == list(range(4))


def test_results_can_be_taken_after_the_executor_is_gone(make_executor: Any) -> None:
    assert list(make_executor(1).map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]


def test_two_generators_of_one_executor_are_apart(make_executor: Any) -> None:
    executor = make_executor(2)
    pairs = zip(executor.map(abs, range(50)), executor.map(str, range(50)), strict=True)
    assert list(pairs) == [(n, str(n)) for n in range(50)]


# --- submit is overridden ---------------------------------------------------------------------------------------------


def test_map_uses_the_submit_of_a_subclass(executor_class: Any) -> None:
    submitted: list[Any] = []

    class Watched(executor_class):  # type: ignore[misc]
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            submitted.append(args)
            return super().submit(fn, *args, **kwargs)

    with Watched(2) as executor:
        assert list(executor.map(abs, range(-3, 0))) == [3, 2, 1]
    assert submitted == [(-3,), (-2,), (-1,)]


def test_map_uses_a_submit_that_is_set_on_the_executor(make_executor: Any) -> None:
    executor, submitted = make_executor(2), []
    own = executor.submit

    def submit(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        submitted.append(args)
        return own(fn, *args, **kwargs)

    executor.submit = submit
    assert list(executor.map(abs, range(-3, 0))) == [3, 2, 1]
    assert submitted == [(-3,), (-2,), (-1,)]


def test_map_takes_any_future_from_an_overridden_submit(make_executor: Any) -> None:
    executor = make_executor(1)

    def submit(fn: Any, /, *args: Any) -> Any:
        future: Any = concurrent.futures.Future()
        future.set_result(("mine", *args))
        return future

    executor.submit = submit
    assert list(executor.map(abs, range(2))) == [("mine", 0), ("mine", 1)]
    del executor.submit
