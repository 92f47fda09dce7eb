"""Predictors as tasks: their calls go to the predictor itself, and no thread of the executor waits for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from executor_support import Gates, blocked, wait_until
from stream_support import flood, rows, seen
from support import (
    HANG,
    POISON,
    Gate,
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

TORCHPOOL_ONLY = True  # to the standard one a predictor is a function as any other


@pytest.fixture
def predict() -> Iterator[torchpool.Predictor]:
    with torchpool.wrap(build(MarkerModule), example=row()) as predictor:
        yield predictor


def expect(predict: Any, *values: float) -> list[torch.Tensor]:
    return [eager(predict._predictor.model, row(value)) for value in values]


VIEWS = {
    "the executor and the predictor": lambda executor, predict: (executor, predict),
    "a view of the executor": lambda executor, predict: (executor.options(priority=2), predict),
    "a view of the predictor": lambda executor, predict: (executor, predict.options(priority=2)),
    "views of both": lambda executor, predict: (executor.options(deadline=HANG), predict.options(priority=2)),
}


@pytest.mark.parametrize("views", VIEWS)
def test_a_map_gives_the_models_results_in_order(make_executor: Any, predict: Any, views: str) -> None:
    executor, calls = VIEWS[views](make_executor(4), predict)
    inputs = draws(300, 1, 4)
    assert_all_close(executor.map(calls, inputs), (eager(predict.model, x) for x in inputs))


@pytest.mark.parametrize("views", VIEWS)
def test_submit_gives_a_future_of_the_models_result(make_executor: Any, predict: Any, views: str) -> None:
    executor, calls = VIEWS[views](make_executor(4), predict)
    futures = [executor.submit(calls, x) for x in rows(*range(100))]
    assert all(isinstance(future, concurrent.futures.Future) for future in futures)
    assert_all_close((future.result(HANG) for future in futures), expect(predict, *range(100)))


def test_no_thread_of_the_executor_is_used(make_executor: Any, predict: Any) -> None:
    executor = make_executor(4)
    list(executor.map(predict, rows(*range(50))))
    executor.submit(predict, row()).result(HANG)
    assert executor._threads == set()


def test_threads_that_are_all_blocked_hold_nothing_up(make_executor: Any, predict: Any, gate: Gate) -> None:
    executor = make_executor(2)
    running = [executor.submit(gate.pass_through) for _ in range(2)]
    gate.wait_entered(2)
    assert_close(executor.submit(predict, row(1)).result(HANG), *expect(predict, 1))
    assert_all_close(executor.map(predict, rows(1, 2)), expect(predict, 1, 2))
    assert not any(future.done() for future in running)


def test_tasks_may_submit_predictor_calls_and_wait_for_them(make_executor: Any, predict: Any) -> None:
    executor = make_executor(1)
    assert_close(executor.submit(lambda: executor.submit(predict, row(1)).result()).result(HANG), *expect(predict, 1))
    mapped = executor.submit(lambda: list(executor.map(predict, rows(1, 2)))).result(HANG)
    assert_all_close(mapped, expect(predict, 1, 2))


def test_keyword_arguments_reach_the_model(make_executor: Any, predict: Any) -> None:
    executor = make_executor(1)
    assert_close(executor.submit(predict, x=row(3)).result(HANG), *expect(predict, 3))
    assert_close(executor.options(priority=1).submit(predict, x=row(3)).result(HANG), *expect(predict, 3))


def test_a_map_of_several_iterables_gives_one_argument_each(make_executor: Any) -> None:
    class Sum(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    with torchpool.wrap(Sum().eval(), example=(row(), row())) as predict:
        results = make_executor(2).map(predict, rows(1, 2, 3), rows(4, 5))
        assert_all_close(results, [row(1) + row(4), row(2) + row(5)])


def test_an_event_loop_may_run_predictor_calls(make_executor: Any, predict: Any) -> None:
    executor = make_executor(2)

    async def main() -> list[torch.Tensor]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, predict, x) for x in rows(*range(40))]
        calls += [loop.run_in_executor(executor.options(priority=1), predict, row(40))]
        return await asyncio.gather(*calls)

    assert_all_close(asyncio.run(main()), expect(predict, *range(41)))
    assert executor._threads == set()


def test_an_event_loop_sees_a_calls_exception(make_executor: Any, predict: Any) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(make_executor(1), predict, row(POISON))

    with pytest.raises(Poisoned):
        asyncio.run(main())


def test_wait_and_as_completed_take_predictor_calls_among_others(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold()
    held.hold()
    call, task = executor.submit(held.predict, row(1)), executor.submit(abs, -1)
    done, waiting = concurrent.futures.wait([call, task], HANG, concurrent.futures.FIRST_COMPLETED)
    assert (done, waiting) == ({task}, {call})
    held.gate.open()
    assert set(concurrent.futures.as_completed([call, task], HANG)) == {call, task}


# --- batches ----------------------------------------------------------------------------------------------------------


def test_whole_batches_are_filled_whatever_max_workers(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(4), hold(max_batch=32)
    held.hold()
    results = executor.map(held.predict, rows(*range(64)))
    held.gate.open()
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(64)))
    assert held.predict.stats()["batch_rows"]["max"] == 32


def test_submitted_calls_fill_batches_too(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(4), hold(max_batch=32)
    held.hold()
    futures = [executor.submit(held.predict, row(n)) for n in range(64)]
    held.gate.open()
    assert_all_close((future.result(HANG) for future in futures), (eager(held.model.linear, row(n)) for n in range(64)))
    assert held.predict.stats()["batch_rows"]["max"] == 32


def test_the_executors_priority_is_the_predictors(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold(batch=False)
    held.hold()
    futures = [executor.options(priority=n).submit(held.predict, row(n)) for n in (1, 3, 2)]
    futures += [executor.submit(held.predict.options(priority=4), row(4))]
    held.gate.open()
    concurrent.futures.wait(futures, HANG)
    assert seen(held) == [4, 3, 2, 1]


def test_the_executors_deadline_is_the_predictors(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold()
    held.hold()
    futures = [
        executor.options(deadline=0.02).submit(held.predict, row()),
        executor.submit(held.predict.options(deadline=0.02), row()),
    ]
    assert [type(future.exception(HANG)) for future in futures] == [TimeoutError] * 2
    assert seen(held) == []


def test_a_map_raises_where_a_call_has_missed_its_deadline(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold()
    held.hold()
    with pytest.raises(TimeoutError):
        next(executor.options(deadline=0.02).map(held.predict, rows(1, 2)))


# --- the standard map's promises --------------------------------------------------------------------------------------


def test_a_map_is_computed_whether_it_is_iterated_over_or_not(make_executor: Any, hold: Any) -> None:
    held = hold()
    executor = make_executor(1)
    held.gate.open()
    results = executor.map(held.predict, rows(*range(300)))
    wait_until(lambda: len(held.gate.seen) == 300)
    assert sorted(held.gate.seen) == list(range(300))
    results.close()


def test_a_map_reads_its_whole_input_at_once(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold(queue_size=1)
    held.hold()
    read: list[int] = []
    results = executor.map(held.predict, (read.append(n) or row(n) for n in range(200)))
    assert read == list(range(200))
    held.gate.open()
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(200)))


def test_with_a_buffersize_no_more_is_read_ahead(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold()
    held.gate.open()
    read: list[int] = []
    results = executor.map(held.predict, (read.append(n) or row(n) for n in range(20)), buffersize=3)
    assert read == [0, 1, 2]
    assert_close(next(results), eager(held.model.linear, row(0)))
    assert read == [0, 1, 2, 3]
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(1, 20)))


@pytest.mark.parametrize("buffersize", [0, -1])
def test_a_buffersize_must_be_positive(make_executor: Any, predict: Any, buffersize: int) -> None:
    with pytest.raises(ValueError, match="buffersize must be None or > 0"):
        make_executor(1).map(predict, [], buffersize=buffersize)


@pytest.mark.parametrize("chunksize", [1, 7])
def test_a_chunksize_changes_nothing(make_executor: Any, predict: Any, chunksize: int) -> None:
    results = make_executor(2).map(predict, rows(*range(20)), chunksize=chunksize)
    assert_all_close(results, expect(predict, *range(20)))


def test_a_calls_exception_is_raised_in_its_place(make_executor: Any, predict: Any) -> None:
    results = make_executor(2).map(predict, rows(0, 1, POISON, 3))
    assert_all_close([next(results), next(results)], expect(predict, 0, 1))
    with pytest.raises(Poisoned):
        next(results)
    assert list(results) == []


def test_a_call_of_a_wrong_shape_hurts_nobody_else(make_executor: Any, predict: Any) -> None:
    executor = make_executor(2)
    futures = [executor.submit(predict, x) for x in (row(1), torch.ones(1, 7), row(2))]
    assert isinstance(futures[1].exception(HANG), RuntimeError | TypeError | ValueError)
    assert_all_close([futures[0].result(HANG), futures[2].result(HANG)], expect(predict, 1, 2))


@pytest.mark.parametrize("args", [(), (1, 2, 3), ("text",)], ids=str)
def test_arguments_that_do_not_fit_fail_in_the_future(make_executor: Any, predict: Any, args: tuple[Any, ...]) -> None:
    assert isinstance(make_executor(1).submit(predict, *args).exception(HANG), Exception)


def test_a_map_has_a_timeout(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold()
    held.hold()
    results = executor.map(held.predict, rows(1, 2), timeout=0.02)
    with pytest.raises(TimeoutError):
        next(results)


def test_an_error_of_the_input_is_raised_by_map(make_executor: Any, predict: Any) -> None:
    def inputs() -> Any:
        yield row(1)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        make_executor(1).map(predict, inputs())


def test_closing_a_map_cancels_what_has_not_started(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold(batch=False)
    held.gate.watch = lambda x: held.gate.pass_through() if x[0, 0] == 1 else None
    results = executor.map(held.predict, rows(0, 1, 2, 3))
    next(results)
    held.gate.wait_entered()
    results.close()
    held.gate.open()
    executor.shutdown()
    assert held.gate.seen == [0, 1]


def test_a_shutdown_that_cancels_ends_a_wait_for_a_call_that_has_not_started(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold()
    running = held.hold()
    pulling = blocked(next, executor.map(held.predict, rows(1, 2)))
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(concurrent.futures.CancelledError):
        pulling.value()
    assert running.running()


def test_a_call_that_waits_may_be_cancelled(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold()
    held.hold()
    one, two = (executor.submit(held.predict, row(n)) for n in (1, 2))
    assert one.cancel()
    held.gate.open()
    assert_close(two.result(HANG), eager(held.model.linear, row(2)))
    assert seen(held) == [2]


def test_submit_never_waits_for_room(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold(queue_size=1)
    flood(held)
    futures = [executor.submit(held.predict, row(n)) for n in range(100)]
    held.gate.open()
    assert_all_close((f.result(HANG) for f in futures), (eager(held.model.linear, row(n)) for n in range(100)))


def test_a_predictor_that_is_closed_fails_its_calls(make_executor: Any, predict: Any) -> None:
    executor = make_executor(1)
    predict.close()
    assert isinstance(executor.submit(predict, row()).exception(HANG), torchpool.Closed)
    with pytest.raises(torchpool.Closed):
        list(executor.map(predict, rows(1)))


def test_a_predictor_that_is_closed_meanwhile_fails_what_waits(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold(queue_size=1)
    flood(held)
    futures = [executor.submit(held.predict, row(n)) for n in range(5)]
    held.predict.close(wait=False, cancel_pending=True)
    held.gate.open()
    assert [type(future.exception(HANG)) for future in futures] == [torchpool.Closed] * 5


def test_several_threads_may_map_at_once(make_executor: Any, predict: Any, gates: Gates) -> None:
    executor = make_executor(2)
    results: list[Any] = [None] * 4

    def work(number: int) -> None:
        results[number] = list(executor.map(predict, rows(*range(number, number + 50))))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive()
    for number in range(4):
        assert_all_close(results[number], expect(predict, *range(number, number + 50)))
