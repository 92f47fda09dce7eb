"""overlap=None, the default: as many tasks wait in a predictor as fill the batches that it has learned to make."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from executor_support import wait_until, wait_until_asleep
from support import HANG, Gate, Held, assert_all_close, eager, row

import torchpool

TORCHPOOL_ONLY = True  # the standard one has no overlap
ROWS = 2  # of a batch
USEFUL = 2 * ROWS  # rows: the one worker's batch, and the next


def submit_parking(executor: Any, held: Held, count: int, *, rows: int = 1) -> list[Any]:
    return [executor.submit(lambda x: held.predict(x), row(number, rows=rows)) for number in range(count)]


def assert_results(futures: list[Any], held: Held, *, rows: int = 1) -> None:
    expected = (eager(held.model.linear, row(number, rows=rows)) for number in range(len(futures)))
    assert_all_close((future.result(HANG) for future in futures), expected)


def assert_nothing_more_starts(executor: Any, gate: Gate, running: int) -> None:
    """But as many tasks as still may run."""
    started = [executor.submit(gate.pass_through) for _ in range(running)]
    gate.wait_entered(running)
    waiting = executor.submit(int)
    assert all(future.running() for future in started)
    assert not waiting.running()
    assert not waiting.done()
    gate.open()
    assert waiting.result(HANG) == 0


def test_as_many_wait_for_a_predictor_as_fill_its_batches(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(2), hold(max_batch=ROWS)
    held.hold()
    parked = submit_parking(executor, held, USEFUL)
    wait_until(lambda: executor.stats()["parked"] == USEFUL)
    assert_nothing_more_starts(executor, gate, 2)
    assert len(executor._threads) == 2 + USEFUL
    held.gate.open()
    assert_results(parked, held)


def test_calls_of_more_rows_take_fewer_tasks(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(2), hold(max_batch=ROWS)
    held.hold()
    parked = submit_parking(executor, held, USEFUL // 2, rows=2)
    wait_until(lambda: executor.stats()["parked"] == USEFUL // 2)
    assert_nothing_more_starts(executor, gate, 2)
    held.gate.open()
    assert_results(parked, held, rows=2)


def test_with_large_batches_there_are_no_more_threads_than_are_worth_it(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(2), hold(max_batch=512)
    held.hold()
    parked = submit_parking(executor, held, 100)
    wait_until(lambda: executor.stats()["parked"] >= 32)
    held.gate.open()
    assert_results(parked, held)
    assert 32 <= len(executor._threads) <= 34


def test_tasks_that_wait_for_a_predictors_future_do_not_count_either(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(2), hold(max_batch=ROWS)
    held.hold()
    parked = [executor.submit(lambda x: held.predict.submit(x).result(), row(n)) for n in range(USEFUL)]
    wait_until(lambda: executor.stats()["parked"] == USEFUL)
    assert executor.submit(int).result(HANG) == 0
    held.gate.open()
    assert_results(parked, held)


def test_calls_that_run_alone_fill_nothing(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(2), hold(batch=False)
    held.hold()
    parked = [executor.submit(lambda: held.predict.submit(row(0)).result())]
    wait_until(lambda: executor.stats()["parked"] == 1)
    assert_nothing_more_starts(executor, gate, 1)
    assert len(executor._threads) == 2
    held.gate.open()
    assert_results(parked, held)


def assert_as_many_are_open_as_workers(executor: Any, held: Held, workers: int) -> None:
    """Of tasks that wait for a predictor, more of which would fill its batches."""
    held.hold()
    parked = submit_parking(executor, held, USEFUL)
    for thread in list(executor._threads):
        wait_until_asleep(thread)
    assert len(executor._threads) == workers
    assert executor.stats()["waiting"] == USEFUL - workers
    held.gate.open()
    assert_results(parked, held)


def test_with_one_worker_one_task_is_open_at_a_time(make_executor: Any, hold: Any) -> None:
    assert_as_many_are_open_as_workers(make_executor(1), hold(max_batch=ROWS), 1)


def test_zero_forbids_it(make_executor: Any, hold: Any) -> None:
    assert_as_many_are_open_as_workers(make_executor(2, overlap=0), hold(max_batch=ROWS), 2)


def test_with_an_initializer_no_more_threads_are_prepared_than_asked_for(make_executor: Any, hold: Any) -> None:
    prepared: list[int] = []
    executor = make_executor(2, initializer=lambda: prepared.append(threading.get_ident()))
    assert_as_many_are_open_as_workers(executor, hold(max_batch=ROWS), 2)
    assert len(prepared) == 2


def test_with_an_overlap_stated_each_task_runs_on_a_thread_that_was_prepared(make_executor: Any, hold: Any) -> None:
    own, seen = threading.local(), []

    def prepare() -> None:
        own.prepared = True

    executor, held = make_executor(2, initializer=prepare, overlap=2), hold(max_batch=ROWS)
    held.hold()

    def task(x: torch.Tensor) -> torch.Tensor:
        seen.append(own.prepared)
        y = held.predict(x)
        seen.append(own.prepared)
        return y

    parked = [executor.submit(task, row(number)) for number in range(USEFUL)]
    wait_until(lambda: executor.stats()["parked"] == USEFUL)
    held.gate.open()
    assert_results(parked, held)
    assert seen == [True] * 2 * USEFUL


def test_resizing_to_one_worker_ends_the_threads_beside_it(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(2), hold(max_batch=ROWS)
    held.hold()
    parked = submit_parking(executor, held, USEFUL)
    wait_until(lambda: executor.stats()["parked"] == USEFUL)
    executor.resize(1)
    held.gate.open()
    assert_results(parked, held)
    wait_until(lambda: len(executor._threads) == 1)
    running, waiting = executor.submit(gate.pass_through), executor.submit(int)
    gate.wait_entered()
    assert running.running()
    assert not waiting.running()


def test_resizing_from_one_worker_lets_tasks_wait_beside_each_other(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold(max_batch=ROWS)
    executor.resize(2)
    held.hold()
    parked = submit_parking(executor, held, USEFUL)
    wait_until(lambda: executor.stats()["parked"] == USEFUL)
    held.gate.open()
    assert_results(parked, held)


def test_batches_are_larger_than_max_workers(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(2), hold(max_batch=16)
    held.hold()
    parked = submit_parking(executor, held, 16)
    wait_until(lambda: executor.stats()["parked"] == 16)
    held.gate.open()
    assert_results(parked, held)
    assert held.predict.stats()["batch_rows"]["max"] == 16


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_a_lock_held_across_a_call_is_one_tasks_at_a_time(
    make_executor: Any, hold: Any, kind: Callable[[], Any]
) -> None:
    executor, held, lock = make_executor(4), hold(max_batch=8), kind()
    inside, most = 0, 0

    def task(x: torch.Tensor) -> torch.Tensor:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            y = held.predict(x)
            inside -= 1
        return y

    assert_results([executor.submit(task, row(number)) for number in range(64)], held)
    assert most == 1


def test_a_task_sees_its_own_thread_locals_after_a_call(make_executor: Any, hold: Any) -> None:
    executor, held, own = make_executor(4), hold(max_batch=8), threading.local()

    def task(number: int) -> bool:
        own.number = number
        held.predict(row(number))
        return bool(own.number == number)

    assert list(executor.map(task, range(64))) == [True] * 64


def test_a_task_keeps_its_grad_mode_and_autocast_over_a_call(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(4), hold(max_batch=8)

    def task(number: int) -> bool:
        with torch.set_grad_enabled(number % 2 == 0), torch.autocast("cpu", torch.bfloat16, enabled=number % 3 == 0):
            held.predict(row(number))
            return torch.is_grad_enabled() == (number % 2 == 0) and torch.is_autocast_enabled("cpu") == (
                number % 3 == 0
            )

    assert list(executor.map(task, range(64))) == [True] * 64


def test_the_default_is_none() -> None:
    assert torchpool.ThreadPoolExecutor.__init__.__kwdefaults__["overlap"] is None
