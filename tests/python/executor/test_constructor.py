"""Making an executor: its arguments, its initializer, its names and attributes."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import re
import sys
import threading
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from executor_support import fail
from support import HANG, Gate


def test_it_is_a_standard_executor(executor_class: Any) -> None:
    assert issubclass(executor_class, concurrent.futures.ThreadPoolExecutor)
    assert issubclass(executor_class, concurrent.futures.Executor)


def test_an_instance_is_one_of_the_standard_class(make_executor: Any) -> None:
    assert isinstance(make_executor(1), concurrent.futures.ThreadPoolExecutor)


def test_the_default_number_of_threads_is_the_standard_one(make_executor: Any) -> None:
    cores = os.process_cpu_count() if sys.version_info >= (3, 13) else os.cpu_count()
    assert make_executor()._max_workers == min(32, (cores or 1) + 4)
    assert make_executor(None)._max_workers == min(32, (cores or 1) + 4)


def test_the_number_of_threads_is_kept(make_executor: Any) -> None:
    assert make_executor(7)._max_workers == 7
    assert make_executor(max_workers=8)._max_workers == 8


@pytest.mark.parametrize("count", [0, -1])
def test_there_must_be_a_thread(executor_class: Any, count: int) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        executor_class(count)


@pytest.mark.parametrize("count", ["4", [4], object()])
def test_the_number_of_threads_must_be_a_number(executor_class: Any, count: Any) -> None:
    with pytest.raises(TypeError):
        executor_class(count)


@pytest.mark.parametrize("initializer", [3, "f", ()])
def test_an_initializer_must_be_callable(executor_class: Any, initializer: Any) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        executor_class(1, initializer=initializer)


def test_an_unknown_keyword_is_a_type_error(executor_class: Any) -> None:
    with pytest.raises(TypeError):
        executor_class(1, threads=2)


def test_the_arguments_may_be_given_by_position(make_executor: Any) -> None:
    seen: list[tuple[int, ...]] = []
    executor = make_executor(1, "placed", lambda *args: seen.append(args), (1, 2))
    assert executor.submit(lambda: threading.current_thread().name).result(HANG) == "placed_0"
    assert seen == [(1, 2)]


def test_a_subclass_may_add_to_the_constructor(executor_class: Any) -> None:
    class Named(executor_class):  # type: ignore[misc]
        def __init__(self, name: str, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.name = name

    with Named("mine", 1) as executor:
        assert executor.name == "mine"
        assert executor.submit(abs, -2).result(HANG) == 2


def test_attributes_may_be_added_to_an_executor(make_executor: Any) -> None:
    executor = make_executor(1)
    executor.foo = 1
    assert executor.foo == 1


def test_a_new_executor_is_neither_broken_nor_shut_down(make_executor: Any) -> None:
    executor = make_executor(1)
    assert not executor._broken
    assert not executor._shutdown


def test_an_executor_that_is_not_initialized_serves_nothing(executor_class: Any) -> None:
    class Careless(executor_class):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

    with pytest.raises((AttributeError, RuntimeError)):
        Careless().submit(int)


# --- names ------------------------------------------------------------------------------------------------------------


def name_of_worker(executor: Any) -> str:
    name: str = executor.submit(lambda: threading.current_thread().name).result(HANG)
    return name


def test_threads_are_named_after_the_executor(make_executor: Any) -> None:
    assert re.fullmatch(r"ThreadPoolExecutor-\d+_0", name_of_worker(make_executor(1)))


def test_default_names_tell_executors_apart(make_executor: Any) -> None:
    executors = [make_executor(1) for _ in range(3)]
    assert len({name_of_worker(executor) for executor in executors}) == 3


def test_the_prefix_of_names_may_be_given(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(3, thread_name_prefix="spam")
    for _ in range(5):
        executor.submit(gate.pass_through)
    assert {thread.name for thread in executor._threads} == {"spam_0", "spam_1", "spam_2"}


def test_the_name_in_a_task_is_that_of_its_thread(make_executor: Any) -> None:
    executor = make_executor(1, thread_name_prefix="eggs")
    assert name_of_worker(executor) == "eggs_0"
    assert [thread.name for thread in executor._threads] == ["eggs_0"]


# --- the initializer --------------------------------------------------------------------------------------------------


def test_the_initializer_runs_once_in_each_thread_before_its_tasks(make_executor: Any) -> None:
    initialized: list[threading.Thread] = []
    together = threading.Barrier(3)

    def task() -> bool:
        together.wait(HANG)
        return threading.current_thread() in initialized

    executor = make_executor(3, initializer=lambda: initialized.append(threading.current_thread()))
    assert all(future.result(HANG) for future in [executor.submit(task) for _ in range(9)])
    assert len(initialized) == 3
    assert set(initialized) == set(executor._threads)


def test_the_initializer_gets_its_arguments(make_executor: Any) -> None:
    seen: list[tuple[int, ...]] = []
    executor = make_executor(1, initializer=lambda *args: seen.append(args), initargs=(1, 2))
    executor.submit(int).result(HANG)
    assert seen == [(1, 2)]


def test_the_initializer_does_not_run_without_work(make_executor: Any) -> None:
    seen: list[int] = []
    executor = make_executor(1, initializer=seen.append, initargs=(1,))
    executor.shutdown()
    assert seen == []


FAILURES = [ValueError("a bad start"), SystemExit(1)]


@pytest.fixture(params=FAILURES, ids=lambda error: type(error).__name__)
def failing(request: pytest.FixtureRequest, make_executor: Any, gate: Gate) -> Any:
    """An executor with one thread, whose initializer fails once the gate is open."""

    def initializer() -> None:
        gate.pass_through()
        fail(request.param)

    return make_executor(1, initializer=initializer)


def test_an_initializer_that_fails_fails_what_waits(failing: Any, gate: Gate) -> None:
    futures = [failing.submit(int) for _ in range(5)]
    gate.open()
    for future in futures:
        with pytest.raises(BrokenThreadPool, match="initializer failed"):
            future.result(HANG)


def test_an_executor_whose_initializer_failed_takes_no_more(failing: Any, gate: Gate) -> None:
    future = failing.submit(int)
    gate.open()
    future.exception(HANG)
    with pytest.raises(BrokenThreadPool, match="initializer failed"):
        failing.submit(int)


def test_map_of_an_executor_whose_initializer_failed_raises(failing: Any, gate: Gate) -> None:
    future = failing.submit(int)
    gate.open()
    future.exception(HANG)
    with pytest.raises(BrokenThreadPool, match="initializer failed"):
        failing.map(int, [1])


def test_an_executor_whose_initializer_failed_is_broken(failing: Any, gate: Gate) -> None:
    future = failing.submit(int)
    gate.open()
    future.exception(HANG)
    assert failing._broken


def test_a_failure_of_the_initializer_is_logged(failing: Any, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "concurrent.futures"):
        future = failing.submit(int)
        gate.open()
        future.exception(HANG)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("concurrent.futures", logging.CRITICAL)
    assert record.getMessage() == "Exception in initializer:"
    assert record.exc_info
    assert record.exc_info[1] in FAILURES


def test_a_broken_executor_shuts_down(failing: Any, gate: Gate) -> None:
    failing.submit(int)
    threads = list(failing._threads)
    gate.open()
    failing.shutdown()
    assert [thread.is_alive() for thread in threads] == [False]


def test_an_initializer_that_fails_in_one_thread_leaves_what_runs_in_another(make_executor: Any, gate: Gate) -> None:
    started: list[int] = []

    def initializer() -> None:
        started.append(1)
        if len(started) == 2:
            raise ValueError("the second thread")

    executor = make_executor(2, initializer=initializer)
    running = executor.submit(gate.pass_through)
    gate.wait_entered()
    broken = executor.submit(int)
    assert isinstance(broken.exception(HANG), BrokenThreadPool)
    gate.open()
    assert running.result(HANG) is None
