"""overlap=: tasks that wait in a predictor let others start."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from executor_support import Gates, blocked, wait_until
from support import (
    HANG,
    MARK,
    POISON,
    Gate,
    Held,
    MarkerModule,
    Poisoned,
    assert_all_close,
    assert_close,
    build,
    draws,
    eager,
    row,
)

import torchpool

TORCHPOOL_ONLY = True  # the standard one has no overlap
MOST = 32  # threads beside max_workers that are worth it


def park(executor: Any, held: Held, count: int = 1) -> list[Any]:
    """Tasks that wait for the predictor until its gate is opened."""
    if not held.gate.seen:
        held.hold()
    before = executor.stats()["parked"]
    futures = [executor.submit(held.predict, row(number)) for number in range(0)]
    futures += [executor.submit(lambda x: held.predict(x), row(number)) for number in range(count)]
    wait_until(lambda: executor.stats()["parked"] == before + count)
    return futures


def test_a_task_that_waits_in_a_predictor_lets_another_start(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=1), hold()
    park(executor, held)
    assert executor.submit(abs, -3).result(HANG) == 3


def test_what_waits_already_starts_when_a_task_parks(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(1, overlap=1), hold()
    held.hold()

    def task() -> torch.Tensor:
        gate.pass_through()
        return held.predict(row(1))

    parking = executor.submit(task)
    gate.wait_entered()
    waiting = executor.submit(abs, -3)
    assert not waiting.done()
    gate.open()
    assert waiting.result(HANG) == 3
    assert not parking.done()


def test_as_many_as_overlap_says_park_beside_those_that_run(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(2, overlap=3), hold()
    park(executor, held, 3)
    running = [executor.submit(gate.pass_through) for _ in range(2)]
    gate.wait_entered(2)
    waiting = executor.submit(int)
    assert [future.running() for future in running] == [True, True]
    assert not waiting.running()
    assert len(executor._threads) == 5


def test_more_parked_tasks_than_overlap_count_as_running(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=2), hold()
    parked = park(executor, held, 3)
    waiting = executor.submit(int)
    assert not waiting.running()
    assert not waiting.done()
    assert executor.stats()["threads"] == 3
    held.gate.open()
    assert waiting.result(HANG) == 0
    assert_all_close((future.result(HANG) for future in parked), (eager(held.model.linear, row(n)) for n in range(3)))


def test_without_overlap_a_parked_task_counts_as_running(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(1, overlap=0), hold()
    held.hold()

    def task() -> torch.Tensor:
        future = held.predict.submit(row(1))
        gate.pass_through()
        return future.result()

    executor.submit(task)
    gate.wait_entered()
    waiting = executor.submit(int)
    gate.open()
    assert len(executor._threads) == 1
    assert executor.stats()["parked"] == 0
    assert not waiting.running()
    held.gate.open()
    assert waiting.result(HANG) == 0


def test_no_more_than_max_workers_run_beside_parked_tasks(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(2, overlap=8), hold()
    park(executor, held, 4)
    inside, most, lock = 0, 0, threading.Lock()

    def task() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.0005)
        with lock:
            inside -= 1

    for future in [executor.submit(task) for _ in range(100)]:
        future.result(HANG)
    assert most <= 2


def test_a_task_whose_result_has_come_waits_for_no_thread(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(1, overlap=1), hold()
    (parked,) = park(executor, held)
    running = executor.submit(gate.pass_through)
    gate.wait_entered()
    held.gate.open()
    assert_close(parked.result(HANG), eager(held.model.linear, row(0)))
    assert running.running()


def test_a_lock_held_across_a_call_does_not_lock_others_out_for_ever(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=4), hold()
    held.hold()
    lock = threading.Lock()

    def task(number: int) -> torch.Tensor:
        with lock:
            return held.predict(row(number))

    futures = [executor.submit(task, number) for number in range(6)]
    wait_until(lambda: executor.stats()["parked"] == 1)
    held.gate.open()
    assert_all_close((future.result(HANG) for future in futures), (eager(held.model.linear, row(n)) for n in range(6)))


def test_nothing_starts_while_more_run_than_may(make_executor: Any, hold: Any, gates: Gates) -> None:
    """A task came back: two run now where one may, and the next starts when both are done."""
    executor, held, first, second = make_executor(1, overlap=1), hold(), gates(), gates()
    held.hold()

    def task() -> None:
        held.predict(row(1))
        first.pass_through()

    executor.submit(task)
    wait_until(lambda: executor.stats()["parked"] == 1)
    running = executor.submit(second.pass_through)
    second.wait_entered()
    held.gate.open()
    first.wait_entered()
    waiting = executor.submit(int)
    second.open()
    running.result(HANG)
    wait_until(lambda: executor.stats()["idle"] == 1)
    assert not waiting.running()
    assert not waiting.done()
    first.open()
    assert waiting.result(HANG) == 0


def test_waiting_for_a_predictors_future_parks_too(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=1), hold()
    held.hold()
    parked = executor.submit(lambda: held.predict.submit(row(1)).result())
    wait_until(lambda: executor.stats()["parked"] == 1)
    assert executor.submit(int).result(HANG) == 0
    held.gate.open()
    assert_close(parked.result(HANG), eager(held.model.linear, row(1)))


def test_a_predictors_map_in_a_task_parks_too(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=1), hold()
    held.hold()
    parked = executor.submit(lambda: list(held.predict.map([row(1), row(2)])))
    wait_until(lambda: executor.stats()["parked"] == 1)
    assert executor.submit(int).result(HANG) == 0
    held.gate.open()
    assert_all_close(parked.result(HANG), [eager(held.model.linear, row(n)) for n in (1, 2)])


def test_waiting_for_room_in_the_predictors_queue_parks_too(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=2), hold(queue_size=1)
    held.hold()
    held.predict.submit(row(9))
    futures = [executor.submit(lambda x: held.predict(x), row(number)) for number in range(2)]
    wait_until(lambda: executor.stats()["parked"] == 2)
    assert executor.submit(int).result(HANG) == 0
    held.gate.open()
    assert_all_close((future.result(HANG) for future in futures), (eager(held.model.linear, row(n)) for n in range(2)))


def test_a_wait_with_a_timeout_parks_and_ends(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=1), hold()
    held.hold()
    parked = executor.submit(lambda: held.predict.submit(row(1)).result(0.05))
    assert isinstance(parked.exception(HANG), TimeoutError)
    assert executor.stats()["parked"] == 0
    assert executor.submit(int).result(HANG) == 0


def test_a_models_exception_ends_the_parking(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=2), hold()
    held.hold()
    parked = [executor.submit(lambda x: held.predict(x), row(value)) for value in (POISON, 1)]
    wait_until(lambda: executor.stats()["parked"] == 2)
    held.gate.open()
    assert isinstance(parked[0].exception(HANG), Poisoned)
    assert_close(parked[1].result(HANG), eager(held.model.linear, row(1)))
    assert executor.stats()["parked"] == 0


def test_a_closed_predictor_ends_the_parking(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=2), hold()
    parked = park(executor, held, 2)
    held.predict.close(wait=False, cancel_pending=True)
    assert [type(future.exception(HANG)) for future in parked] == [torchpool.Closed] * 2
    assert executor.stats()["parked"] == 0


def test_shutdown_waits_for_parked_tasks_and_for_what_waits(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=2), hold()
    parked = park(executor, held, 3)
    waiting = executor.submit(abs, -1)
    ending = blocked(executor.shutdown)
    assert ending.thread.is_alive()
    held.gate.open()
    ending.value()
    assert_all_close((future.result(0) for future in parked), (eager(held.model.linear, row(n)) for n in range(3)))
    assert waiting.result(0) == 1
    assert not any(thread.is_alive() for thread in executor._threads)


def test_a_task_may_park_after_a_shutdown(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(1, overlap=2), hold()
    held.hold()

    def task() -> torch.Tensor:
        gate.pass_through()
        return held.predict(row(1))

    parking, waiting = executor.submit(task), executor.submit(abs, -1)
    gate.wait_entered()
    executor.shutdown(wait=False)
    gate.open()
    assert waiting.result(HANG) == 1
    held.gate.open()
    assert_close(parking.result(HANG), eager(held.model.linear, row(1)))


def test_cancelling_at_shutdown_leaves_parked_tasks_alone(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=1), hold()
    parked = park(executor, held, 2)
    waiting = executor.submit(int)
    executor.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    held.gate.open()
    assert_all_close((future.result(HANG) for future in parked), (eager(held.model.linear, row(n)) for n in range(2)))


def test_a_task_that_is_not_the_executors_own_does_not_count(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=1), hold()
    held.hold()
    outside = blocked(held.predict, row(1))
    assert executor.stats()["parked"] == 0
    held.gate.open()
    outside.value()


def test_stats_count_the_parked(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1, overlap=5), hold()
    parked = park(executor, held, 4)
    assert executor.stats()["parked"] == 4
    held.gate.open()
    [future.result(HANG) for future in parked]
    assert executor.stats()["parked"] == 0


def test_batches_are_larger_than_max_workers(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(2, overlap=14), hold()
    parked = park(executor, held, 16)
    held.gate.open()
    assert_all_close((future.result(HANG) for future in parked), (eager(held.model.linear, row(n)) for n in range(16)))
    assert held.predict.stats()["batch_rows"]["max"] == 16


def test_threads_that_were_added_do_not_run_more_afterwards(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(1, overlap=4), hold()
    parked = park(executor, held, 5)
    held.gate.open()
    [future.result(HANG) for future in parked]
    running, waiting = executor.submit(gate.pass_through), executor.submit(int)
    gate.wait_entered()
    assert running.running()
    assert not waiting.running()
    assert not waiting.done()


def test_parked_threads_leave_after_a_shrink(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(4, overlap=2), hold()
    parked = park(executor, held, 6)
    executor.resize(1)
    assert len(executor._threads) == 6
    held.gate.open()
    [future.result(HANG) for future in parked]
    wait_until(lambda: len(executor._threads) == 3)


@pytest.mark.parametrize("workers, overlap", [(4, 32), (1, 3), (2, 0), (3, None)])
def test_results_are_right_under_load(make_executor: Any, workers: int, overlap: int | None) -> None:
    model = build(MarkerModule)
    executor = make_executor(workers, overlap=overlap)
    inputs = draws(300, 1, 4)
    with torchpool.wrap(model, example=row()) as predict:

        def task(x: torch.Tensor) -> torch.Tensor:
            return predict(x) + predict(x)

        assert_all_close(executor.map(task, inputs), (2 * eager(model, x) for x in inputs))
    assert executor.stats()["parked"] == 0
    assert len(executor._threads) <= workers + (MOST if overlap is None else overlap)


def test_parked_tasks_may_wait_for_each_other(make_executor: Any) -> None:
    model = build(MarkerModule)
    executor = make_executor(1, overlap=2)
    with torchpool.wrap(model, example=row()) as predict:

        def task(depth: int) -> torch.Tensor:
            own = predict(row(depth))
            return own if depth == 0 else own + executor.submit(task, depth - 1).result()

        futures = [executor.submit(task, 3) for _ in range(20)]
        expected = sum(eager(model, row(depth)) for depth in range(4))
        for future in futures:
            assert_close(future.result(HANG), expected)


@pytest.mark.parametrize("overlap", [-1, 1.5, "1"])
def test_overlap_must_be_an_int_of_at_least_zero(overlap: Any) -> None:
    with pytest.raises(ValueError, match="overlap must be an int of at least 0"):
        torchpool.ThreadPoolExecutor(1, overlap=overlap)


def test_the_held_worker_is_the_only_one(hold: Any) -> None:
    """What the tests above rest on: nothing is answered while it is held."""
    held = hold()
    held.hold()
    assert not held.predict.submit(row(1)).done()
    assert held.gate.seen == [MARK]
