"""ex.submit(predictor, ...): a backlog without bounds before a queue with bounds."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stream_support import flood, seen
from support import (
    HANG,
    MARK,
    POISON,
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
from torchpool.executor.backlog import SubmitStream

SOON = 0.02  # seconds; a deadline that is to pass


@pytest.fixture
def stream() -> SubmitStream:
    return SubmitStream()


def submit(stream: SubmitStream, calls: Any, *values: float) -> list[Any]:
    return [stream.submit(calls, (row(value),), {}) for value in values]


def test_submit_gives_a_future_of_the_models_own_result(stream: SubmitStream) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    future = stream.submit(predict, (), {"x": row(1)})
    assert isinstance(future, torchpool.futures.Future)
    assert_close(future.result(HANG), eager(predict.model, row(1)))
    assert future.done()
    assert not future.cancel()


@pytest.mark.parametrize("overflow", ["block", "reject"])
def test_calls_beyond_the_queue_wait_in_order_and_nobody_waits_for_room(
    hold: Any, stream: SubmitStream, overflow: str
) -> None:
    held = hold(queue_size=1, overflow=overflow)
    first = flood(held)
    futures = submit(stream, held.predict, *range(30))
    assert stream.pending == 30
    assert not any(future.done() or future.running() for future in futures)
    held.gate.open()
    assert_all_close((future.result(HANG) for future in futures), (eager(held.model.linear, row(n)) for n in range(30)))
    assert seen(held) == [100, *range(30)]
    assert stream.drain()
    assert stream.pending == 0
    concurrent.futures.wait(first, HANG)


def test_other_callers_get_their_share_of_a_full_queue(hold: Any, stream: SubmitStream) -> None:
    held = hold(queue_size=1)
    flood(held)
    futures = submit(stream, held.predict, *range(20))
    held.gate.open()
    others = run_threads(2, lambda number: [held.predict(row(n)) for n in range(20)])
    for results in (*others, [future.result(HANG) for future in futures]):
        assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(20)))


def test_a_models_exception_and_a_refused_call_hurt_nobody_else(hold: Any, stream: SubmitStream) -> None:
    held = hold(queue_size=1)
    flood(held)
    futures = submit(stream, held.predict, 1, POISON, 2)
    futures.append(stream.submit(held.predict, (torch.ones(1, 5),), {}))
    futures += submit(stream, held.predict, 3)
    held.gate.open()
    concurrent.futures.wait(futures, HANG)
    assert [type(future.exception()) for future in futures] == [
        type(None),
        Poisoned,
        type(None),
        ValueError,
        type(None),
    ]


def test_a_call_that_the_contract_refuses_fails_its_future_only(stream: SubmitStream) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    wrong = stream.submit(predict, (torch.ones(1, 5),), {})
    with pytest.raises(ValueError, match="input 'x' has size 5 in dim 1"):
        wrong.result(HANG)
    with pytest.raises(TypeError, match="requires grad"):
        stream.submit(predict, (row().requires_grad_(),), {}).result(HANG)
    assert stream.drain()


def test_a_closed_predictor_fails_the_future(stream: SubmitStream) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    predict.close()
    with pytest.raises(torchpool.Closed):
        stream.submit(predict, (row(),), {}).result(HANG)
    assert stream.pending == 0


def test_a_predictor_that_is_closed_meanwhile_fails_what_waits(hold: Any, stream: SubmitStream) -> None:
    held = hold(queue_size=1)
    first, queued = flood(held)
    futures = submit(stream, held.predict, 1, 2, 3)
    held.predict.close(wait=False, cancel_pending=True)
    for future in (queued, *futures):
        assert isinstance(future.exception(HANG), torchpool.Closed)
    held.gate.open()
    first.result(HANG)
    assert seen(held) == []


def test_cancelling_in_the_backlog_keeps_a_call_from_the_model(hold: Any, stream: SubmitStream) -> None:
    held = hold(queue_size=1)
    running, queued = flood(held)
    futures = submit(stream, held.predict, *range(10))
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
    assert stream.drain()
    concurrent.futures.wait([running, queued], HANG)
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]


def test_cancelling_in_the_predictors_queue_and_while_it_runs(hold: Any, stream: SubmitStream) -> None:
    held = hold()
    (running,) = submit(stream, held.predict, MARK)
    held.gate.wait_entered()
    (queued,) = submit(stream, held.predict, 1)
    assert running.running()
    assert not running.cancel()
    assert queued.cancel()
    held.gate.open()
    assert_close(running.result(HANG), eager(held.model.linear, row(MARK)))
    assert stream.drain()
    assert seen(held) == []


def test_a_deadline_ends_calls_in_the_backlog(hold: Any, stream: SubmitStream) -> None:
    held = hold(queue_size=1)
    flood(held)
    late = submit(stream, held.predict.options(deadline=SOON), 1, 2, 3)
    for future in late:
        with pytest.raises(TimeoutError, match="deadline"):
            future.result(HANG)
    assert stream.drain()
    held.gate.open()
    kept = submit(stream, held.predict.options(deadline=HANG), 4)
    assert kept[0].result(HANG).shape == (1, 3)
    assert seen(held) == [100, 4]


def test_a_deadline_passes_while_the_stream_is_held(hold: Any) -> None:
    held, stream = hold(), SubmitStream(held=True)
    (late,) = submit(stream, held.predict.options(deadline=SOON), 1)
    with pytest.raises(TimeoutError, match="deadline"):
        late.result(HANG)
    assert seen(held) == []


def test_a_priority_goes_with_the_call(hold: Any) -> None:
    held = hold(max_batch=1)
    held.hold()
    low, high = SubmitStream(), SubmitStream()
    futures = submit(low, held.predict, 1, 2) + submit(high, held.predict.options(priority=1), 3)
    held.gate.open()
    concurrent.futures.wait(futures, HANG)
    assert seen(held) == [3, 1, 2]


def test_nothing_is_lost_when_four_threads_submit_and_cancel(hold: Any) -> None:
    emptied = threading.Event()
    stream = SubmitStream(on_empty=lambda stream: emptied.set())
    held = hold(queue_size=3)

    def work(number: int) -> int:
        futures = submit(stream, held.predict, *range(100))
        cancelled = [future.cancel() for future in futures[::3]].count(True)
        concurrent.futures.wait(futures, HANG)
        for n, future in enumerate(futures):
            if not future.cancelled():
                assert_close(future.result(), eager(held.model.linear, row(n)))
        assert [future.cancelled() for future in futures].count(True) == cancelled
        return cancelled

    run_threads(4, work)
    assert stream.drain()
    assert stream.pending == stream.waiting == 0
    assert emptied.wait(HANG)
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]


def test_a_dropped_predictor_answers_what_was_submitted_and_is_freed_then(hold: Any, stream: SubmitStream) -> None:
    held = hold(queue_size=1)
    model = held.model
    first = flood(held)
    futures = submit(stream, held.predict, *range(5))
    gone = weakref.ref(held.predict)
    held.predict = None
    gc.collect()
    assert gone() is not None
    held.gate.open()
    assert_all_close((future.result(HANG) for future in futures), (eager(model.linear, row(n)) for n in range(5)))
    assert stream.drain()
    concurrent.futures.wait(first, HANG)
    del first, futures
    gc.collect()
    torchpool.wrap(build(MarkerModule))(row())
    assert gone() is None


def test_a_future_that_is_done_keeps_only_its_result(hold: Any, stream: SubmitStream) -> None:
    held = hold(queue_size=1)
    flood(held)
    x = row(1.0, rows=10_000)  # too large to be copied
    gone = weakref.ref(x)
    future = stream.submit(held.predict, (x,), {})
    del x
    assert gone() is not None
    held.gate.open()
    result = future.result(HANG)
    assert stream.drain()
    close_and_free(held.predict)
    gc.collect()
    assert gone() is None
    assert future.result() is result


@pytest.mark.parametrize("wrong", [row(POISON), torch.ones(1, 5)], ids=["fails", "is refused"])
def test_an_exception_is_freed_once_the_caller_drops_it(hold: Any, stream: SubmitStream, wrong: torch.Tensor) -> None:
    held = hold(queue_size=1)
    flood(held)
    future = stream.submit(held.predict, (wrong,), {})
    held.gate.open()
    error = future.exception(HANG)
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert not {"_hand_over", "_settle", "_feed"} & set(frames)
    assert stream.drain()


class Asks(torch.nn.Module):
    """Submits to another predictor through a stream, and waits for it."""

    ask: Callable[[torch.Tensor], torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ask(x)


def test_a_model_may_submit_and_wait_with_one_worker_and_a_queue_of_one(
    runtime: torchpool.Runtime, stream: SubmitStream
) -> None:
    inner = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, queue_size=1)
    model = Asks()
    model.ask = lambda x: torch.cat(
        [future.result(HANG) for future in [stream.submit(inner, (part,), {}) for part in x.split(1)]]
    )
    outer = torchpool.wrap(model.eval(), runtime=runtime, queue_size=1, batch=False)
    outers = SubmitStream()
    futures = [outers.submit(outer, (row(n, rows=3),), {}) for n in range(10)]
    for n, future in enumerate(futures):
        assert_close(future.result(HANG), eager(inner.model, row(n, rows=3)))


def test_a_new_kind_of_call_is_learned_on_a_thread_of_the_streams_own(stream: SubmitStream) -> None:
    threads: set[str] = set()

    class Records(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            threads.add(threading.current_thread().name)
            return x * 2

    predict = torchpool.wrap(Records().eval())
    future = stream.submit(predict, (row(3),), {})
    assert_close(future.result(HANG), row(3) * 2)
    assert threading.current_thread().name not in threads


def test_the_feeder_ends_with_the_backlog_and_starts_again(hold: Any, stream: SubmitStream) -> None:
    held = hold(queue_size=1)
    flood(held)
    futures = submit(stream, held.predict, 1, 2)
    feeder = stream._feeder
    assert feeder is not None
    assert (feeder.name, feeder.daemon) == ("torchpool-feeder", True)
    held.gate.open()
    concurrent.futures.wait(futures, HANG)
    feeder.join(HANG)
    assert not feeder.is_alive()
    assert submit(stream, held.predict, 3)[0].result(HANG).shape == (1, 3)
