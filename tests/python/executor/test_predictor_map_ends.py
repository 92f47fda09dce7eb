"""ex.map(predictor, ...): errors, timeouts, and maps that end early."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from stream_support import drain, flood, pending, rows, seen
from support import MARK, POISON, MarkerModule, Poisoned, assert_all_close, assert_close, build, eager, row

import torchpool
from torchpool.executor.predictor_map import PredictorMap

TORCHPOOL_ONLY = True  # to the standard one a predictor is a function as any other

SOON = 0.02  # seconds; a timeout or deadline that is to pass


@pytest.fixture
def executor(make_executor: Any) -> torchpool.ThreadPoolExecutor:
    return make_executor(1)


@pytest.fixture
def predict() -> Iterator[torchpool.Predictor]:
    with torchpool.wrap(build(MarkerModule), example=row()) as predictor:
        yield predictor


def expect(predictor: torchpool.Predictor, values: Any) -> list[torch.Tensor]:
    return [eager(predictor.model, row(value)) for value in values]


def failing(count: int) -> Iterator[torch.Tensor]:
    yield from map(row, range(count))
    raise RuntimeError("no more")


def test_an_error_of_the_iterable_is_raised_at_the_call(executor: Any, predict: torchpool.Predictor) -> None:
    with pytest.raises(RuntimeError, match="no more"):
        executor.map(predict, failing(3))
    with pytest.raises(TypeError, match="not iterable"):
        executor.map(predict, 3)


def test_with_buffersize_an_error_of_the_iterable_comes_after_the_results_before_it(
    executor: Any,
    predict: torchpool.Predictor,
) -> None:
    results = executor.map(predict, failing(3), buffersize=2)
    assert_all_close(itertools.islice(results, 3), expect(predict, range(3)))
    with pytest.raises(RuntimeError, match="no more"):
        next(results)
    assert list(results) == []


def test_a_failed_call_raises_in_its_place_and_ends_the_results(executor: Any, predict: torchpool.Predictor) -> None:
    results = executor.map(predict, rows(1, POISON, 3))
    assert_close(next(results), expect(predict, [1])[0])
    with pytest.raises(Poisoned):
        next(results)
    assert list(results) == []
    drain(executor)


def test_a_refused_call_raises_in_its_place(executor: Any, predict: torchpool.Predictor) -> None:
    results = executor.map(predict, [row(1), torch.ones(1, 5), row(3)])
    assert_close(next(results), expect(predict, [1])[0])
    with pytest.raises(ValueError, match="has size 5 in dim 1"):
        next(results)


def test_refused_calls_alone_are_all_seen_through(executor: Any, predict: torchpool.Predictor) -> None:
    results = executor.map(predict, [torch.ones(1, 5)] * 1000)
    drain(executor)
    with pytest.raises(ValueError, match="has size 5 in dim 1"):
        next(results)


@pytest.mark.parametrize("queue_size", [1, 4096])
def test_the_timeout_counts_from_the_call(executor: Any, hold: Any, queue_size: int) -> None:
    held = hold(queue_size=queue_size)
    flood(held)
    results = executor.map(held.predict, rows(1, 2, 3), timeout=SOON)
    with pytest.raises(TimeoutError):
        next(results)
    assert list(results) == []
    held.gate.open()
    drain(executor)
    held.predict.close()
    assert seen(held) == [100]


def test_results_that_are_ready_in_time_come_before_the_timeout(executor: Any, hold: Any) -> None:
    held = hold()
    results = executor.map(held.predict, rows(1, 2), timeout=0)
    drain(executor)
    held.hold()
    late = executor.map(held.predict, rows(3), timeout=-1)
    # The time is over: what is there is handed out all the same, as by the standard's futures.
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in (1, 2)))
    with pytest.raises(TimeoutError):
        next(late)


def test_a_deadline_passes_in_the_backlog(executor: Any, hold: Any) -> None:
    held = hold(queue_size=1)
    flood(held)
    results = executor.map(held.predict.options(deadline=SOON), rows(*range(5)))
    with pytest.raises(TimeoutError, match="deadline"):
        next(results)
    drain(executor)
    held.gate.open()
    held.predict.close()
    assert seen(held) == [100]


def test_closing_in_the_middle_cancels_the_rest(executor: Any, hold: Any) -> None:
    held = hold(queue_size=10, max_batch=1)
    count = 3 * held.predict._calls_ahead(None)
    results = executor.map(held.predict, rows(1, 2, MARK, *range(3, count)))
    assert_all_close(itertools.islice(results, 2), (eager(held.model.linear, row(n)) for n in (1, 2)))
    held.gate.wait_entered()
    results.close()
    results.close()
    assert list(results) == []
    held.gate.open()
    drain(executor)
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]
    assert stats["accepted"] < count
    assert seen(held) == [1, 2]


def test_what_is_thrown_into_the_results_comes_out_and_cancels_the_rest(executor: Any, hold: Any) -> None:
    held = hold(max_batch=1)
    results = executor.map(held.predict, rows(1, MARK, 2, 3))
    next(results)
    held.gate.wait_entered()
    with pytest.raises(KeyError):
        results.throw(KeyError("mine"))
    held.gate.open()
    drain(executor)
    assert seen(held) == [1]


def test_a_closed_predictor_ends_the_results_after_those_it_has(executor: Any, hold: Any) -> None:
    held = hold(queue_size=1, max_batch=32)
    held.hold()
    ahead = held.predict._calls_ahead(None)
    results = executor.map(held.predict, rows(*range(3 * ahead)))
    held.predict.close(wait=False)
    held.gate.open()
    assert_all_close(itertools.islice(results, ahead), (eager(held.model.linear, row(n)) for n in range(ahead)))
    with pytest.raises(torchpool.Closed):
        next(results)
    drain(executor)
    assert seen(held) == list(range(ahead))
    results = executor.map(held.predict, rows(1))
    with pytest.raises(torchpool.Closed):
        next(results)


def test_a_predictor_that_is_closed_and_cancels_ends_the_results_at_once(executor: Any, hold: Any) -> None:
    held = hold(queue_size=1, max_batch=32)
    held.hold()
    results = executor.map(held.predict, rows(*range(3 * held.predict._calls_ahead(None))))
    held.predict.close(wait=False, cancel_pending=True)
    with pytest.raises(torchpool.Closed):
        next(results)
    drain(executor)
    held.gate.open()
    assert seen(held) == []


@pytest.mark.parametrize("error", [MemoryError("no room for a lot"), KeyboardInterrupt("Ctrl-C")])
def test_what_keeps_a_map_from_sending_its_next_calls_ends_the_results(
    executor: Any, hold: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Not only what it raises where it is iterated over: mostly a resolver's thread sends them."""
    held = hold(max_batch=1)
    held.hold()
    count = 2 * held.predict._look_ahead()
    results = executor.map(held.predict, rows(*range(count)))
    sent = count - len(results.gi_frame.f_locals["self"]._waiting)

    take_lot = PredictorMap._take_lot

    def interrupted(own: PredictorMap) -> None:
        take_lot(own)
        raise error

    monkeypatch.setattr(PredictorMap, "_take_lot", interrupted)
    held.gate.open()
    taken: list[torch.Tensor] = []
    with pytest.raises(type(error), match=str(error)):
        for y in results:
            taken.append(y)
    assert_all_close(taken, (eager(held.model.linear, row(n)) for n in range(sent)))
    drain(executor)
    assert pending(executor) == 0


def test_a_map_that_begins_while_the_executor_is_shut_down_is_refused(
    executor: Any, predict: torchpool.Predictor
) -> None:
    calls = executor._predictor_calls
    calls.end()  # a thread that has passed the check of submit() comes behind it
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        calls.map(predict, (rows(1, 2, 3),), None, None, 0, None)
    assert pending(executor) == 0
