"""overlap=None: threads whose first task costs far more than later ones are added only as they pay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from executor_support import wait_until
from support import HANG, assert_all_close, eager, row

import torchpool

TORCHPOOL_ONLY = True  # the standard one has no overlap
WORKERS = 2
ROWS = 4  # of a batch
USEFUL = 2 * ROWS  # tasks: the one worker's batch, and the next
COST = 0.02  # seconds of processor time


def burn(seconds: float = COST) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


class Costly(threading.local):
    """What each thread makes for itself."""

    def __init__(self) -> None:
        burn()


@pytest.fixture
def held(hold: Any) -> Any:
    made = hold(max_batch=ROWS)
    made.hold()
    return made


def submit_each(executor: Any, task: Callable[[torch.Tensor], Any], count: int = 3 * USEFUL) -> list[Any]:
    return [executor.submit(task, row(number)) for number in range(count)]


def assert_results(futures: list[Any], held: Any) -> None:
    held.gate.open()
    expected = (eager(held.model.linear, row(number)) for number in range(len(futures)))
    assert_all_close((future.result(HANG) for future in futures), expected)


def assert_none_is_added(executor: Any, futures: list[Any], held: Any) -> None:
    wait_until(lambda: executor.stats()["parked"] == WORKERS)  # each asks for more when it parks
    assert executor.stats()["threads"] == WORKERS
    assert_results(futures, held)


def assert_all_are_added(executor: Any, futures: list[Any], held: Any) -> None:
    wait_until(lambda: executor.stats()["parked"] >= USEFUL)
    assert_results(futures, held)


def test_threads_that_cost_much_are_not_added_for_a_few_tasks(make_executor: Any, held: Any) -> None:
    executor, own = make_executor(WORKERS), Costly()

    def task(x: torch.Tensor) -> Any:
        vars(own)
        return held.predict(x)

    assert_none_is_added(executor, submit_each(executor, task), held)


def test_tasks_that_wait_for_a_predictors_future_are_the_same(make_executor: Any, held: Any) -> None:
    executor, own = make_executor(WORKERS), Costly()

    def task(x: torch.Tensor) -> Any:
        future = held.predict.submit(x)
        vars(own)
        return future.result()

    assert_none_is_added(executor, submit_each(executor, task), held)


def test_threads_that_cost_little_are_added_at_once(make_executor: Any, held: Any) -> None:
    executor = make_executor(WORKERS)
    assert_all_are_added(executor, submit_each(executor, lambda x: held.predict(x)), held)


def test_an_overlap_that_is_stated_is_had_whatever_it_costs(make_executor: Any, held: Any) -> None:
    executor, own = make_executor(WORKERS, overlap=USEFUL), Costly()

    def task(x: torch.Tensor) -> Any:
        vars(own)
        return held.predict(x)

    assert_all_are_added(executor, submit_each(executor, task), held)


def test_what_a_predictor_uses_on_the_callers_thread_is_not_the_threads_cost(make_executor: Any, held: Any) -> None:
    """Such as its learning, in its first calls."""
    executor = make_executor(WORKERS)

    def slow(x: torch.Tensor) -> Any:
        burn()
        return x

    with torchpool.wrap(slow) as alone:
        futures = submit_each(executor, lambda x: held.predict(alone(x)))
        assert_all_are_added(executor, futures, held)


def test_where_every_task_costs_as_much_threads_are_added(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(WORKERS), hold(max_batch=ROWS)

    def task(x: torch.Tensor) -> Any:
        burn(0.003)
        return held.predict(x)

    assert_results(submit_each(executor, task, 100), held)
    assert executor.stats()["threads"] > WORKERS


def test_threads_that_cost_much_are_added_as_many_tasks_come(make_executor: Any, hold: Any) -> None:
    executor, held, own = make_executor(WORKERS), hold(max_batch=ROWS), Costly()

    def task(x: torch.Tensor) -> Any:
        vars(own)
        burn(0.0005)
        return held.predict(x)

    assert_results(submit_each(executor, task, 1000), held)
    assert executor.stats()["threads"] > WORKERS
