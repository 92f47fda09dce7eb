"""submit(): what is called with what, what comes back, and in which order tasks run."""

from __future__ import annotations

import functools
import threading
import traceback
from typing import Any

import pytest
from executor_support import Refused, Thing, fail, wait_until_asleep
from support import HANG, Gate, run_threads


def test_arguments_and_keywords_are_passed_on(make_executor: Any) -> None:
    future = make_executor(1).submit(lambda *args, **kwargs: (args, kwargs), 1, 2, three=3)
    assert future.result(HANG) == ((1, 2), {"three": 3})


@pytest.mark.parametrize("name", ["self", "fn", "args", "kwargs", "timeout"])
def test_a_keyword_of_any_name_reaches_the_function(make_executor: Any, name: str) -> None:
    assert make_executor(1).submit(lambda **kwargs: kwargs, **{name: 1}).result(HANG) == {name: 1}


def test_the_function_is_given_by_position_only(make_executor: Any) -> None:
    with pytest.raises(TypeError):
        make_executor(1).submit(fn=len)


def test_submit_of_nothing_is_a_type_error(make_executor: Any) -> None:
    with pytest.raises(TypeError):
        make_executor(1).submit()


def test_what_cannot_be_called_fails_in_its_future(make_executor: Any) -> None:
    assert isinstance(make_executor(1).submit(3).exception(HANG), TypeError)


def test_arguments_that_do_not_fit_fail_in_the_future(make_executor: Any) -> None:
    assert isinstance(make_executor(1).submit(len, 1, 2, 3).exception(HANG), TypeError)


def test_none_is_a_result(make_executor: Any) -> None:
    future = make_executor(1).submit(lambda: None)
    assert future.result(HANG) is None
    assert future.exception(HANG) is None


def test_the_result_is_the_very_object_each_time(make_executor: Any) -> None:
    thing = Thing()
    future = make_executor(1).submit(lambda: thing)
    assert future.result(HANG) is thing
    assert future.result(HANG) is thing


def test_arguments_are_the_very_objects(make_executor: Any) -> None:
    one, two = Thing(), Thing()
    first, second = make_executor(1).submit(lambda x, *, y: (x, y), one, y=two).result(HANG)
    assert first is one
    assert second is two


def test_an_exception_may_be_a_result(make_executor: Any) -> None:
    error = Refused()
    assert make_executor(1).submit(lambda: error).result(HANG) is error


class Callable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x: int) -> int:
        return x + 1

    def method(self, x: int) -> int:
        return x + 1

    @classmethod
    def of_the_class(cls, x: int) -> int:
        return x + 1

    @staticmethod
    def static(x: int) -> int:
        return x + 1


CALLABLES = {
    "a lambda": lambda x: x + 1,
    "a C function": (1).__add__,
    "a class": type("Int", (int,), {"__new__": lambda cls, x: int.__new__(cls, x + 1)}),
    "a partial": functools.partial(int.__add__, 1),
    "an unhashable object": Callable(),
    "a bound method": Callable().method,
    "a class method": Callable.of_the_class,
    "a static method": Callable.static,
    "a cached function": functools.lru_cache(lambda x: x + 1),
}


@pytest.mark.parametrize("kind", CALLABLES)
def test_whatever_can_be_called_is_called(make_executor: Any, kind: str) -> None:
    assert make_executor(1).submit(CALLABLES[kind], 1).result(HANG) == 2


def test_unhashable_arguments_are_passed(make_executor: Any) -> None:
    future = make_executor(1).submit(lambda *args, **kwargs: (args, kwargs), [1], {2: 3}, four={5})
    assert future.result(HANG) == (([1], {2: 3}), {"four": {5}})


@pytest.mark.parametrize("count", [5, 9, 300])
def test_many_arguments_are_passed_in_their_order(make_executor: Any, count: int) -> None:
    kwargs = {f"name_{n}": n for n in range(count)}
    args, keywords = make_executor(1).submit(lambda *a, **k: (a, list(k.items())), *range(count), **kwargs).result(HANG)
    assert args == tuple(range(count))
    assert keywords == list(kwargs.items())


def test_each_future_is_a_new_one(make_executor: Any) -> None:
    executor = make_executor(1)
    assert len({executor.submit(int) for _ in range(10)}) == 10


# --- errors -----------------------------------------------------------------------------------------------------------

ERRORS = [
    ValueError("no"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(4),
    BaseException("bare"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_result_raises_the_very_exception(make_executor: Any, error: BaseException) -> None:
    future = make_executor(1).submit(fail, error)
    with pytest.raises(type(error)) as raised:
        future.result(HANG)
    assert raised.value is error


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_exception_returns_the_very_exception(make_executor: Any, error: BaseException) -> None:
    assert make_executor(1).submit(fail, error).exception(HANG) is error


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_worker_outlives_the_error_of_a_task(make_executor: Any, error: BaseException) -> None:
    executor = make_executor(1)
    worker = executor.submit(threading.current_thread).result(HANG)
    executor.submit(fail, error).exception(HANG)
    assert executor.submit(threading.current_thread).result(HANG) is worker


def outer(work: Any) -> Any:
    return inner(work)


def inner(work: Any) -> Any:
    return work()


def names(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_the_traceback_of_an_exception_ends_with_the_functions_of_the_task(make_executor: Any) -> None:
    error = make_executor(1).submit(outer, lambda: [][0]).exception(HANG)
    assert names(error)[-3:] == ["outer", "inner", "<lambda>"]


def test_a_raised_result_has_the_traceback_of_the_task(make_executor: Any) -> None:
    future = make_executor(1).submit(outer, lambda: [][0])
    with pytest.raises(IndexError) as raised:
        future.result(HANG)
    assert names(raised.value)[-3:] == ["outer", "inner", "<lambda>"]
    assert names(raised.value)[0] == "test_a_raised_result_has_the_traceback_of_the_task"


def test_a_task_that_fails_has_no_context_of_another(make_executor: Any) -> None:
    executor = make_executor(1)
    executor.submit(fail, ValueError("earlier")).exception(HANG)
    error = executor.submit(fail, ValueError("later")).exception(HANG)
    assert error.__context__ is None


def test_raising_a_result_sets_no_context_where_none_is_handled(make_executor: Any) -> None:
    future = make_executor(1).submit(fail, ValueError())
    with pytest.raises(ValueError) as raised:
        future.result(HANG)
    assert raised.value.__context__ is None


def test_the_cause_and_context_of_an_exception_are_kept(make_executor: Any) -> None:
    cause, context = KeyError(), OSError()

    def work() -> None:
        try:
            raise context
        except OSError:
            raise ValueError from cause

    error = make_executor(1).submit(work).exception(HANG)
    assert error.__cause__ is cause
    assert error.__context__ is context


def test_a_task_sees_no_exception_being_handled_by_its_submitter(make_executor: Any) -> None:
    import sys

    executor = make_executor(1)
    try:
        raise ValueError("being handled")
    except ValueError:
        assert executor.submit(sys.exc_info).result(HANG) == (None, None, None)


# --- nesting, order and numbers ---------------------------------------------------------------------------------------


def test_a_task_may_submit_another(make_executor: Any) -> None:
    executor = make_executor(1)
    assert executor.submit(executor.submit, int, "7").result(HANG).result(HANG) == 7


def test_a_task_may_wait_for_another_when_there_is_a_second_thread(make_executor: Any) -> None:
    executor = make_executor(2)
    assert executor.submit(lambda: executor.submit(int, "7").result(HANG)).result(HANG) == 7


def test_a_task_may_wait_for_one_of_another_executor(make_executor: Any) -> None:
    one, other = make_executor(1), make_executor(1)
    assert one.submit(lambda: other.submit(int, "7").result(HANG)).result(HANG) == 7


def test_one_thread_runs_tasks_in_the_order_of_their_submission(make_executor: Any, gate: Gate) -> None:
    executor, order = make_executor(1), []
    executor.submit(gate.pass_through)
    futures = [executor.submit(order.append, n) for n in range(200)]
    gate.open()
    for future in futures:
        future.result(HANG)
    assert order == list(range(200))


def test_tasks_that_a_task_submits_come_after_those_that_wait(make_executor: Any, gate: Gate) -> None:
    executor, order = make_executor(1), []

    def first() -> Any:
        gate.pass_through()
        return executor.submit(order.append, "of the task")

    submitted = executor.submit(first)
    gate.wait_entered()
    executor.submit(order.append, "waiting")
    gate.open()
    submitted.result(HANG).result(HANG)
    assert order == ["waiting", "of the task"]


def test_a_free_thread_takes_what_waits_while_another_is_held(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(2)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    assert [executor.submit(abs, -n).result(HANG) for n in range(10)] == list(range(10))


def test_an_idle_worker_wakes_for_new_work(make_executor: Any) -> None:
    executor = make_executor(1)
    (worker,) = executor.submit(lambda: {threading.current_thread()}).result(HANG)
    for n in range(3):
        wait_until_asleep(worker)
        assert executor.submit(abs, -n).result(HANG) == n


@pytest.mark.parametrize("workers", [1, 4])
def test_many_submitters_lose_nothing_and_run_nothing_twice(make_executor: Any, workers: int) -> None:
    executor, ran = make_executor(workers), []

    def task(n: int) -> int:
        ran.append(n)
        return n

    def submit(number: int) -> list[int]:
        futures = [executor.submit(task, number * 500 + n) for n in range(500)]
        return [future.result(HANG) for future in futures]

    assert [n for results in run_threads(8, submit) for n in results] == list(range(4000))
    assert sorted(ran) == list(range(4000))


def test_tasks_of_one_submitter_start_in_order_beside_those_of_others(make_executor: Any) -> None:
    executor, ran = make_executor(1), []

    def submit(number: int) -> None:
        futures = [executor.submit(ran.append, (number, n)) for n in range(300)]
        futures[-1].result(HANG)

    run_threads(4, submit)
    for number in range(4):
        assert [n for who, n in ran if who == number] == list(range(300))
