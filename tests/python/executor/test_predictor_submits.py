"""ex.submit(predictor, ...): calls without bounds before a queue with bounds."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stream_support import drain, flood, pending, seen
from support import (
    HANG,
    MARK,
    POISON,
    Gate,
    MarkerModule,
    Poisoned,
    assert_all_close,
    assert_close,
    build,
    close_and_free,
    eager,
    row,
    run_threads,
)

import torchpool
import torchpool.call.futures

TORCHPOOL_ONLY = True  # to the standard one a predictor is a function as any other

SOON = 0.02  # seconds; a deadline that is to pass


@pytest.fixture
def executor(make_executor: Any) -> torchpool.ThreadPoolExecutor:
    return make_executor(1)


def submit(executor: Any, calls: Any, *values: float) -> list[Any]:
    return [executor.submit(calls, row(value)) for value in values]


def test_submit_gives_a_future_of_the_models_own_result(executor: Any) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    future = executor.submit(predict, x=row(1))
    assert isinstance(future, torchpool.call.futures.Future)
    assert_close(future.result(HANG), eager(predict.model, row(1)))
    assert future.done()
    assert not future.cancel()


@pytest.mark.parametrize("overflow", ["block", "reject"])
def test_calls_beyond_the_queue_wait_in_order_and_nobody_waits_for_room(
    hold: Any, executor: Any, overflow: str
) -> None:
    held = hold(queue_size=1, overflow=overflow)
    first = flood(held)
    futures = submit(executor, held.predict, *range(30))
    assert pending(executor) == 30
    assert not any(future.done() or future.running() for future in futures)
    held.gate.open()
    assert_all_close((future.result(HANG) for future in futures), (eager(held.model.linear, row(n)) for n in range(30)))
    assert seen(held) == [100, *range(30)]
    drain(executor)
    assert pending(executor) == 0
    concurrent.futures.wait(first, HANG)


def test_other_callers_get_their_share_of_a_full_queue(hold: Any, executor: Any) -> None:
    held = hold(queue_size=1)
    flood(held)
    futures = submit(executor, held.predict, *range(20))
    held.gate.open()
    others = run_threads(2, lambda number: [held.predict(row(n)) for n in range(20)])
    for results in (*others, [future.result(HANG) for future in futures]):
        assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(20)))


def test_a_models_exception_and_a_refused_call_hurt_nobody_else(hold: Any, executor: Any) -> None:
    held = hold(queue_size=1)
    flood(held)
    futures = submit(executor, held.predict, 1, POISON, 2)
    futures.append(executor.submit(held.predict, torch.ones(1, 5)))
    futures += submit(executor, held.predict, 3)
    held.gate.open()
    concurrent.futures.wait(futures, HANG)
    assert [type(future.exception()) for future in futures] == [
        type(None),
        Poisoned,
        type(None),
        ValueError,
        type(None),
    ]


def test_a_call_that_the_contract_refuses_fails_its_future_only(executor: Any) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    wrong = executor.submit(predict, torch.ones(1, 5))
    with pytest.raises(ValueError, match="input 'x' has size 5 in dim 1"):
        wrong.result(HANG)
    with pytest.raises(TypeError, match="requires grad"):
        executor.submit(predict, row().requires_grad_()).result(HANG)
    drain(executor)


def test_a_closed_predictor_fails_the_future(executor: Any) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    predict.close()
    with pytest.raises(torchpool.Closed):
        executor.submit(predict, row()).result(HANG)
    assert pending(executor) == 0


def test_a_predictor_that_is_closed_meanwhile_fails_what_waits(hold: Any, executor: Any) -> None:
    held = hold(queue_size=1)
    first, queued = flood(held)
    futures = submit(executor, held.predict, 1, 2, 3)
    held.predict.close(wait=False, cancel_pending=True)
    for future in (queued, *futures):
        assert isinstance(future.exception(HANG), torchpool.Closed)
    held.gate.open()
    first.result(HANG)
    assert seen(held) == []


def test_cancelling_in_the_backlog_keeps_a_call_from_the_model(hold: Any, executor: Any) -> None:
    held = hold(queue_size=1)
    running, queued = flood(held)
    futures = submit(executor, held.predict, *range(10))
    called: list[Any] = []
    futures[9].add_done_callback(called.append)
    for n in (0, 4, 9):
        assert futures[n].cancel()
        assert futures[n].cancel()
        assert futures[n].cancelled()
    assert called == [futures[9]]
    done, _ = concurrent.futures.wait(futures, HANG, return_when=concurrent.futures.FIRST_COMPLETED)
    assert done == {futures[0], futures[4], futures[9]}
    with pytest.raises(concurrent.futures.CancelledError):
        futures[4].result(HANG)
    held.gate.open()
    concurrent.futures.wait(futures, HANG)
    assert seen(held) == [100, 1, 2, 3, 5, 6, 7, 8]
    drain(executor)
    concurrent.futures.wait([running, queued], HANG)
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]


def test_cancelling_in_the_predictors_queue_and_while_it_runs(hold: Any, executor: Any) -> None:
    held = hold()
    (running,) = submit(executor, held.predict, MARK)
    held.gate.wait_entered()
    (queued,) = submit(executor, held.predict, 1)
    assert running.running()
    assert not running.cancel()
    assert queued.cancel()
    held.gate.open()
    assert_close(running.result(HANG), eager(held.model.linear, row(MARK)))
    drain(executor)
    assert seen(held) == []


def test_a_deadline_ends_calls_in_the_backlog(hold: Any, executor: Any) -> None:
    held = hold(queue_size=1)
    flood(held)
    late = submit(executor, held.predict.options(deadline=SOON), 1, 2, 3)
    for future in late:
        with pytest.raises(TimeoutError, match="deadline"):
            future.result(HANG)
    drain(executor)
    held.gate.open()
    kept = submit(executor, held.predict.options(deadline=HANG), 4)
    assert kept[0].result(HANG).shape == (1, 3)
    assert seen(held) == [100, 4]


def test_a_deadline_passes_while_calls_are_held(make_executor: Any, gate: Gate, hold: Any) -> None:
    held, executor = hold(), make_executor(1, initializer=gate.pass_through)
    (late,) = submit(executor, held.predict.options(deadline=SOON), 1)
    with pytest.raises(TimeoutError, match="deadline"):
        late.result(HANG)
    gate.open()
    drain(executor)
    assert seen(held) == []


def test_a_priority_goes_with_the_call(executor: Any, hold: Any) -> None:
    held = hold(max_batch=1)
    held.hold()
    futures = submit(executor, held.predict, 1, 2) + submit(executor, held.predict.options(priority=1), 3)
    held.gate.open()
    concurrent.futures.wait(futures, HANG)
    assert seen(held) == [3, 1, 2]


def test_nothing_is_lost_when_four_threads_submit_and_cancel(executor: Any, hold: Any) -> None:
    held = hold(queue_size=3)

    def work(number: int) -> int:
        futures = submit(executor, held.predict, *range(100))
        cancelled = [future.cancel() for future in futures[::3]].count(True)
        concurrent.futures.wait(futures, HANG)
        for n, future in enumerate(futures):
            if not future.cancelled():
                assert_close(future.result(), eager(held.model.linear, row(n)))
        assert [future.cancelled() for future in futures].count(True) == cancelled
        return cancelled

    run_threads(4, work)
    drain(executor)
    assert pending(executor) == 0
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]


def test_a_dropped_predictor_answers_what_was_submitted_and_is_freed_then(hold: Any, executor: Any) -> None:
    held = hold(queue_size=1)
    model = held.model
    first = flood(held)
    futures = submit(executor, held.predict, *range(5))
    gone = weakref.ref(held.predict)
    held.predict = None
    gc.collect()
    assert gone() is not None
    held.gate.open()
    assert_all_close((future.result(HANG) for future in futures), (eager(model.linear, row(n)) for n in range(5)))
    drain(executor)
    concurrent.futures.wait(first, HANG)
    del first, futures
    gc.collect()
    torchpool.wrap(build(MarkerModule))(row())
    assert gone() is None


def test_a_future_that_is_done_keeps_only_its_result(hold: Any, executor: Any) -> None:
    held = hold(queue_size=1)
    flood(held)
    x = row(1.0, rows=10_000)  # too large to be copied
    gone = weakref.ref(x)
    future = executor.submit(held.predict, x)
    del x
    assert gone() is not None
    held.gate.open()
    result = future.result(HANG)
    drain(executor)
    close_and_free(held.predict)
    gc.collect()
    assert gone() is None
    assert future.result() is result


@pytest.mark.parametrize("wrong", [row(POISON), torch.ones(1, 5)], ids=["fails", "is refused"])
def test_an_exception_is_freed_once_the_caller_drops_it(hold: Any, executor: Any, wrong: torch.Tensor) -> None:
    held = hold(queue_size=1)
    flood(held)
    future = executor.submit(held.predict, wrong)
    held.gate.open()
    error = future.exception(HANG)
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert not {"_hand_over", "hand_over", "submit", "start", "run"} & set(frames)
    drain(executor)


class Asks(torch.nn.Module):
    """Submits to another predictor through an executor, and waits for it."""

    ask: Callable[[torch.Tensor], torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ask(x)


def test_a_model_may_submit_and_wait_with_one_worker_and_a_queue_of_one(
    runtime: torchpool.Runtime, make_executor: Any
) -> None:
    executor, outers = make_executor(1), make_executor(1)
    inner = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, queue_size=1)
    model = Asks()
    model.ask = lambda x: torch.cat(
        [future.result(HANG) for future in [executor.submit(inner, part) for part in x.split(1)]]
    )
    outer = torchpool.wrap(model.eval(), runtime=runtime, queue_size=1, batch=False)
    futures = [outers.submit(outer, row(n, rows=3)) for n in range(10)]
    for n, future in enumerate(futures):
        assert_close(future.result(HANG), eager(inner.model, row(n, rows=3)))


def test_a_call_of_a_callback_lines_up_too(executor: Any, hold: Any) -> None:
    held = hold(queue_size=1)
    first = held.hold()
    inner: list[Any] = []
    asked = threading.Event()

    def ask(done: Any) -> None:
        inner.append(executor.submit(held.predict, row(7)))
        asked.set()

    first.add_done_callback(ask)
    held.gate.open()
    assert asked.wait(HANG)
    assert_close(inner[0].result(HANG), eager(held.model.linear, row(7)))
