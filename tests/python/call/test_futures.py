"""Futures of submitted calls keep every promise of `concurrent.futures.Future`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from typing import Any

import pytest
import torch
from support import (
    HANG,
    MARK,
    POISON,
    LSTMClassifier,
    MarkerModule,
    assert_all_close,
    assert_close,
    build,
    draw,
    eager,
    row,
    run_threads,
)

import torchpool


@pytest.fixture
def predict() -> torchpool.Predictor:
    return torchpool.wrap(build(MarkerModule), example=row())


def test_submit_returns_a_standard_future_of_the_models_own_result(predict: torchpool.Predictor) -> None:
    future = predict.submit(row(1))
    assert isinstance(future, concurrent.futures.Future)
    assert_close(future.result(HANG), eager(predict.model, row(1)))
    assert future.exception() is None
    assert future.done()
    assert not future.running()
    assert not future.cancelled()


def test_a_failed_call_gives_the_models_exception(predict: torchpool.Predictor) -> None:
    future = predict.submit(row(POISON))
    assert isinstance(future.exception(HANG), ValueError)
    with pytest.raises(ValueError, match="a poisoned row"):
        future.result()


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(1)])
def test_whatever_the_model_raises_reaches_the_caller_and_ends_nothing_else(hold: Any, raised: BaseException) -> None:
    def fail(x: torch.Tensor) -> None:
        if bool((x == POISON).any()):
            raise raised

    held = hold()
    held.gate.watch = fail
    futures = [held.predict.submit(row(n)) for n in (1, POISON, 3)]
    assert futures[1].exception(HANG) is raised
    assert_all_close((futures[n].result(HANG) for n in (0, 2)), (eager(held.model, row(n)) for n in (1, 3)))
    with pytest.raises(type(raised)):
        held.predict(row(POISON))
    assert_close(held.predict(row(4)), eager(held.model, row(4)))


@pytest.mark.parametrize("backend", ["python", "torchscript"])
def test_accepted_and_resolved_agree_after_2000_submits_of_8_threads(backend: str) -> None:
    model = build(LSTMClassifier)
    if backend == "torchscript":
        model = torch.jit.script(model)
    predict = torchpool.wrap(model, example=draw(1, 50, 10))
    x = draw(1, 50, 10)
    expected = eager(model, x)

    def work(number: int) -> None:
        futures = [predict.submit(x) for _ in range(250)]
        for future in futures:
            assert_close(future.result(HANG), expected)

    run_threads(8, work)
    stats = predict.stats()
    assert stats["accepted"] == stats["resolved"] == stats["succeeded"] == 2000
    assert stats["waiting_rows"] == 0


def test_result_and_exception_time_out(hold: Any) -> None:
    future = hold().hold()
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0)


def test_wait_returns_when_all_are_done(predict: torchpool.Predictor) -> None:
    futures = [predict.submit(row(POISON if n == 7 else n)) for n in range(100)]
    done, left = concurrent.futures.wait(futures, HANG)
    assert done == set(futures)
    assert not left


def test_wait_for_the_first_returns_while_the_rest_waits(hold: Any) -> None:
    held = hold()
    first, second = held.hold(), held.predict.submit(row(1))
    (waiting,) = run_threads(1, lambda number: concurrent.futures.wait([first, second], 0.01))
    assert waiting.done == set()
    assert second.cancel()
    done, left = concurrent.futures.wait([first, second], HANG, return_when=concurrent.futures.FIRST_COMPLETED)
    assert (done, left) == ({second}, {first})


def test_wait_for_the_first_exception(hold: Any) -> None:
    held = hold()
    held.hold()
    futures = [held.predict.submit(row(POISON if n == 2 else n)) for n in range(5)]
    held.gate.open()
    done, _ = concurrent.futures.wait(futures, HANG, return_when=concurrent.futures.FIRST_EXCEPTION)
    assert futures[2] in done


def test_as_completed_gives_each_future_once(predict: torchpool.Predictor) -> None:
    futures = [predict.submit(row(n)) for n in range(200)]
    assert set(concurrent.futures.as_completed(futures, HANG)) == set(futures)


def test_as_completed_starts_with_what_is_done(hold: Any) -> None:
    held = hold()
    first, second = held.hold(), held.predict.submit(row(1))
    second.cancel()
    completed = concurrent.futures.as_completed([first, second], HANG)
    assert next(completed) is second
    held.gate.open()
    assert next(completed) is first


def test_cancelling_before_the_start_keeps_the_call_from_the_model(hold: Any) -> None:
    held = hold()
    held.hold()
    kept, dropped = held.predict.submit(row(1)), held.predict.submit(row(2))
    assert dropped.cancel()
    assert dropped.cancel()
    assert dropped.cancelled()
    assert dropped.done()
    with pytest.raises(concurrent.futures.CancelledError):
        dropped.result(HANG)
    with pytest.raises(concurrent.futures.CancelledError):
        dropped.exception(HANG)
    held.gate.open()
    kept.result(HANG)
    assert held.gate.seen == [MARK, 1]
    assert held.predict.stats()["cancelled"] == 1


def test_cancelling_frees_the_place_in_the_queue(hold: Any) -> None:
    held = hold(queue_size=1, overflow="reject")
    held.hold()
    first = held.predict.submit(row(1))
    with pytest.raises(torchpool.QueueFull):
        held.predict.submit(row(2))
    first.cancel()
    second = held.predict.submit(row(3))
    held.gate.open()
    second.result(HANG)
    assert held.gate.seen == [MARK, 3]


def test_a_running_call_cannot_be_cancelled(hold: Any) -> None:
    held = hold()
    future = held.hold()
    assert future.running()
    assert not future.cancel()
    assert not future.cancelled()
    held.gate.open()
    assert_close(future.result(HANG), eager(held.model, row(MARK)))
    assert not future.running()


def test_a_waiting_call_is_not_running(hold: Any) -> None:
    held = hold()
    held.hold()
    future = held.predict.submit(row(1))
    assert not future.running()
    assert not future.done()


def test_a_call_that_is_done_cannot_be_cancelled(predict: torchpool.Predictor) -> None:
    future = predict.submit(row(1))
    concurrent.futures.wait([future], HANG)
    assert not future.cancel()
    assert not future.cancelled()
    assert future.result().shape == (1, 3)


def test_cancelling_from_many_threads_while_calls_start_loses_none(predict: torchpool.Predictor) -> None:
    futures = [predict.submit(row(n)) for n in range(400)]
    cancelled = run_threads(4, lambda number: [future.cancel() for future in futures])
    concurrent.futures.wait(futures, HANG)
    for n, future in enumerate(futures):
        assert future.cancelled() == any(lot[n] for lot in cancelled)
        if not future.cancelled():
            assert_close(future.result(), eager(predict.model, row(n)))
    stats = predict.stats()
    assert stats["accepted"] == stats["resolved"] == 400


def test_callbacks_run_once_in_order_with_their_future(hold: Any) -> None:
    held = hold()
    future = held.hold()
    calls: list[tuple[int, Any]] = []
    last = threading.Event()
    for n in range(3):
        future.add_done_callback(lambda done, n=n: calls.append((n, done)))
    future.add_done_callback(lambda done: last.set())
    held.gate.open()
    assert last.wait(HANG)
    assert calls == [(0, future), (1, future), (2, future)]


def test_a_callback_of_a_done_future_runs_at_once(predict: torchpool.Predictor) -> None:
    future = predict.submit(row(1))
    future.result(HANG)
    calls: list[Any] = []
    future.add_done_callback(calls.append)
    assert calls == [future]


def test_a_callback_of_a_cancelled_future_runs(hold: Any) -> None:
    held = hold()
    held.hold()
    future = held.predict.submit(row(1))
    calls: list[Any] = []
    future.add_done_callback(calls.append)
    future.cancel()
    assert calls == [future]


@pytest.mark.parametrize("error", [RuntimeError("bad callback"), SystemExit(3), KeyboardInterrupt()])
def test_an_error_in_a_callback_is_logged_and_hurts_nobody(
    hold: Any, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def bad(done: Any) -> None:
        raise error

    held = hold()
    first = held.hold()
    second = held.predict.submit(row(1))
    ran = threading.Event()
    first.add_done_callback(bad)
    second.add_done_callback(lambda done: ran.set())
    with caplog.at_level(logging.ERROR):
        held.gate.open()
        assert second.result(HANG).shape == (1, 3)
        assert ran.wait(HANG)
    assert any(record.exc_info and record.exc_info[1] is error for record in caplog.records)
    assert_close(held.predict(row(2)), eager(held.model, row(2)))


def test_a_callback_that_never_returns_keeps_no_other_call_waiting(hold: Any) -> None:
    held = hold()
    first, release = held.hold(), threading.Event()
    first.add_done_callback(lambda done: release.wait(HANG))
    held.gate.open()
    try:
        assert held.predict.submit(row(1)).result(HANG).shape == (1, 3)
    finally:
        release.set()


def calls(predict: torchpool.Predictor, earlier: Any) -> Any:
    return predict(row(5))


def submits_and_waits(predict: torchpool.Predictor, earlier: Any) -> Any:
    return predict.submit(row(5)).result(HANG)


def waits_for_another(predict: torchpool.Predictor, earlier: Any) -> Any:
    return earlier.result(HANG)


def waits_for_all(predict: torchpool.Predictor, earlier: Any) -> Any:
    concurrent.futures.wait([earlier], HANG)
    return earlier.result(0)


def maps(predict: torchpool.Predictor, earlier: Any) -> Any:
    return list(predict.map(map(row, range(6))))[5]


@pytest.mark.parametrize("work", [calls, submits_and_waits, waits_for_another, waits_for_all, maps])
def test_a_callback_may_use_the_predictor(hold: Any, work: Any) -> None:
    held = hold(queue_size=1)
    first = held.hold()
    earlier = held.predict.submit(row(5))
    results: list[Any] = []
    finished = threading.Event()

    def callback(done: Any) -> None:
        try:
            results.append(work(held.predict, earlier))
        finally:
            finished.set()

    first.add_done_callback(callback)
    held.gate.open()
    assert finished.wait(HANG)
    assert_close(results[0], eager(held.model, row(5)))


def test_a_future_may_be_awaited_by_asyncio(hold: Any) -> None:
    held = hold()

    async def main() -> Any:
        first = asyncio.wrap_future(held.hold())
        second = asyncio.wrap_future(held.predict.submit(row(1)))
        third = asyncio.wrap_future(held.predict.submit(row(2)))
        third.cancel()
        await asyncio.sleep(0)
        held.gate.open()
        return await asyncio.gather(first, second)

    first, second = asyncio.run(main())
    assert_close(first, eager(held.model, row(MARK)))
    assert_close(second, eager(held.model, row(1)))
    assert held.gate.seen[:3] == [MARK, 1, MARK]


def test_a_call_that_the_contract_refuses_raises_at_submit(predict: torchpool.Predictor) -> None:
    with pytest.raises(ValueError, match=r"input 'x' has size 5 in dim 1 .* expected 4"):
        predict.submit(torch.ones(1, 5))


def test_rejecting_counts_and_accepts_nothing(hold: Any) -> None:
    held = hold(queue_size=2, overflow="reject")
    held.hold()
    held.predict.submit(row(1, rows=2))
    with pytest.raises(torchpool.QueueFull, match="2 rows wait"):
        held.predict.submit(row(2))
    stats = held.predict.stats()
    assert (stats["accepted"], stats["rejected"], stats["waiting_rows"]) == (2, 1, 2)
