"""ex.map(predictor, ...): the standard map's promises, however little room the predictor has."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from stream_support import flood, mapped, rows, seen
from support import HANG, MARK, POISON, MarkerModule, Poisoned, assert_all_close, assert_close, build, draw, eager, row
from support import run_threads as in_threads

import torchpool

SOON = 0.02  # seconds; a timeout or deadline that is to pass


@pytest.fixture
def predict() -> Iterator[torchpool.Predictor]:
    with torchpool.wrap(build(MarkerModule), example=row()) as predictor:
        yield predictor


def expect(predictor: torchpool.Predictor, values: Any) -> list[torch.Tensor]:
    return [eager(predictor.model, row(value)) for value in values]


@pytest.mark.parametrize("buffersize", [None, 1, 7])
@pytest.mark.parametrize("count", [0, 1, 500, 2000])
@pytest.mark.parametrize("of", [list, iter], ids=["list", "iterator"])
def test_results_come_in_the_order_of_the_inputs(
    predict: torchpool.Predictor, buffersize: int | None, count: int, of: Any
) -> None:
    stream, results = mapped(predict, of(rows(*range(count))), buffersize=buffersize)
    assert_all_close(results, expect(predict, range(count)))
    assert stream.finished
    assert stream.pending == 0


def test_several_iterables_give_one_argument_each_until_the_shortest_ends() -> None:
    class Sum(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    predict = torchpool.wrap(Sum().eval(), example=(row(), row()))
    _, results = mapped(predict, map(row, range(10)), rows(*range(7)))
    assert_all_close(results, [row(n) + row(n) for n in range(7)])


@pytest.mark.parametrize("of", [lambda data: data, lambda data: data.numpy()], ids=["tensor", "array"])
def test_a_tensor_or_array_is_taken_row_by_row(of: Any) -> None:
    model = build(MarkerModule)
    data = draw(50, 4)
    predict = torchpool.wrap(model, example=data[0])
    _, results = mapped(predict, of(data))
    assert_all_close(results, (eager(model, x) for x in data))
    with pytest.raises(TypeError, match="0-d array"):
        mapped(predict, np.array(3.0))


@pytest.mark.parametrize("overflow", ["block", "reject"])
@pytest.mark.parametrize("buffersize", [None, 5])
def test_the_caller_never_waits_for_room(hold: Any, overflow: str, buffersize: int | None) -> None:
    held = hold(queue_size=1, overflow=overflow)
    flood(held)
    stream, results = mapped(held.predict, rows(*range(40)), buffersize=buffersize)
    assert stream.pending == (buffersize or 40)
    held.gate.open()
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(40)))
    assert seen(held) == [100, *range(40)]


@pytest.mark.parametrize("of", [list, iter], ids=["list", "iterator"])
def test_all_is_computed_though_nobody_iterates(hold: Any, of: Any) -> None:
    held = hold()
    held.hold()
    stream, results = mapped(held.predict, of(rows(*range(2000))))
    held.gate.open()
    assert stream.drain()
    assert seen(held) == list(range(2000))
    assert stream.finished
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(2000)))


def test_dropping_the_results_before_the_first_was_taken_cancels_nothing(hold: Any) -> None:
    held = hold(queue_size=2)
    held.hold()
    stream, results = mapped(held.predict, rows(*range(300)))
    del results
    gc.collect()
    held.gate.open()
    assert stream.drain()
    assert seen(held) == list(range(300))


def test_whoever_takes_a_few_results_has_the_rest_computed(hold: Any) -> None:
    held = hold()
    stream, results = mapped(held.predict, rows(*range(1500)))
    for n in range(300):
        assert_close(next(results), eager(held.model.linear, row(n)))
    assert stream.drain()
    assert seen(held) == list(range(1500))
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(300, 1500)))


def test_inputs_that_come_slowly_are_computed_as_they_come(hold: Any) -> None:
    held = hold()
    computed = threading.Semaphore(0)
    held.gate.watch = lambda x: computed.release(len(x))

    def slow() -> Iterator[torch.Tensor]:
        for n in range(5):
            yield row(n)
            assert computed.acquire(timeout=HANG)  # before the next one comes

    _, results = mapped(held.predict, slow())
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(5)))


def test_many_inputs_that_come_slowly_are_fed_by_themselves(hold: Any) -> None:
    held = hold()
    computed = threading.Semaphore(0)
    held.gate.watch = lambda x: computed.release(len(x))

    def slow() -> Iterator[torch.Tensor]:
        yield from map(row, range(1000))
        for _ in range(1000):
            assert computed.acquire(timeout=HANG)
        yield row(1000)

    _, results = mapped(held.predict, slow())
    assert len(list(results)) == 1001


def test_with_buffersize_the_input_is_read_by_whoever_iterates(predict: torchpool.Predictor) -> None:
    pulled: list[int] = []

    def endless() -> Iterator[torch.Tensor]:
        for n in itertools.count():
            pulled.append(n)
            yield row(n)

    stream, results = mapped(predict, endless(), buffersize=5)
    assert len(pulled) == 5
    assert stream.drain()
    assert stream.pending == 0
    assert not stream.finished  # there is more to read
    for taken in range(1, 20):
        assert_close(next(results), expect(predict, [taken - 1])[0])
        assert len(pulled) == 5 + taken
    results.close()
    assert len(pulled) == 24
    assert stream.drain()
    assert stream.finished
    stream, results = mapped(predict, endless(), buffersize=5)
    assert stream.drain()
    del results  # nobody can read on
    gc.collect()
    assert stream.finished


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("3", TypeError)])
def test_a_buffersize_that_makes_no_sense_is_refused(predict: torchpool.Predictor, wrong: Any, error: Any) -> None:
    with pytest.raises(error, match="buffersize must be"):
        mapped(predict, [], buffersize=wrong)


def failing(count: int) -> Iterator[torch.Tensor]:
    yield from map(row, range(count))
    raise RuntimeError("no more")


def test_an_error_of_the_iterable_is_raised_at_the_call(predict: torchpool.Predictor) -> None:
    with pytest.raises(RuntimeError, match="no more"):
        mapped(predict, failing(3))
    with pytest.raises(TypeError, match="not iterable"):
        mapped(predict, 3)


def test_with_buffersize_an_error_of_the_iterable_comes_after_the_results_before_it(
    predict: torchpool.Predictor,
) -> None:
    _, results = mapped(predict, failing(3), buffersize=2)
    assert_all_close(itertools.islice(results, 3), expect(predict, range(3)))
    with pytest.raises(RuntimeError, match="no more"):
        next(results)
    assert list(results) == []


def test_a_failed_call_raises_in_its_place_and_ends_the_results(predict: torchpool.Predictor) -> None:
    stream, results = mapped(predict, rows(1, POISON, 3))
    assert_close(next(results), expect(predict, [1])[0])
    with pytest.raises(Poisoned):
        next(results)
    assert list(results) == []
    assert stream.drain(HANG)


def test_a_refused_call_raises_in_its_place(predict: torchpool.Predictor) -> None:
    _, results = mapped(predict, [row(1), torch.ones(1, 5), row(3)])
    assert_close(next(results), expect(predict, [1])[0])
    with pytest.raises(ValueError, match="has size 5 in dim 1"):
        next(results)


def test_refused_calls_alone_are_all_seen_through(predict: torchpool.Predictor) -> None:
    stream, results = mapped(predict, [torch.ones(1, 5)] * 1000)
    assert stream.drain()
    with pytest.raises(ValueError, match="has size 5 in dim 1"):
        next(results)


@pytest.mark.parametrize("queue_size", [1, 4096])
def test_the_timeout_counts_from_the_call(hold: Any, queue_size: int) -> None:
    held = hold(queue_size=queue_size)
    flood(held)
    stream, results = mapped(held.predict, rows(1, 2, 3), timeout=SOON)
    with pytest.raises(TimeoutError):
        next(results)
    assert list(results) == []
    held.gate.open()
    assert stream.drain()
    held.predict.close()
    assert seen(held) == [100]


def test_results_that_are_ready_in_time_come_before_the_timeout(hold: Any) -> None:
    held = hold()
    stream, results = mapped(held.predict, rows(1, 2), timeout=HANG)
    assert stream.drain()
    held.hold()
    _, late = mapped(held.predict, rows(3), timeout=-1)
    stream._until = 0.0  # long ago: what is there is handed out all the same, as by the standard's futures
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in (1, 2)))
    with pytest.raises(TimeoutError):
        next(late)


def test_a_deadline_passes_in_the_backlog(hold: Any) -> None:
    held = hold(queue_size=1)
    flood(held)
    stream, results = mapped(held.predict.options(deadline=SOON), rows(*range(5)))
    with pytest.raises(TimeoutError, match="deadline"):
        next(results)
    assert stream.drain()
    held.gate.open()
    held.predict.close()
    assert seen(held) == [100]


def test_closing_in_the_middle_cancels_the_rest(hold: Any) -> None:
    held = hold(queue_size=10, max_batch=1)
    stream, results = mapped(held.predict, rows(1, 2, MARK, *range(3, 60)))
    assert_all_close(itertools.islice(results, 2), (eager(held.model.linear, row(n)) for n in (1, 2)))
    held.gate.wait_entered()
    results.close()
    results.close()
    assert list(results) == []
    held.gate.open()
    assert stream.drain()
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]
    assert stats["accepted"] < 60


def test_what_is_thrown_into_the_results_comes_out_and_cancels_the_rest(hold: Any) -> None:
    held = hold(max_batch=1)
    stream, results = mapped(held.predict, rows(1, MARK, 2, 3))
    next(results)
    held.gate.wait_entered()
    with pytest.raises(KeyError):
        results.throw(KeyError("mine"))
    held.gate.open()
    assert stream.drain()
    assert seen(held) == [1]


def test_a_result_is_dropped_as_it_is_handed_out(predict: torchpool.Predictor) -> None:
    _, results = mapped(predict, rows(1, 2, 3))
    gone = weakref.ref(next(results))
    predict.close()  # waits until the worker has let go of its batch
    gc.collect()
    assert gone() is None


class Total(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(-1)


def test_results_that_nobody_takes_do_not_keep_their_inputs(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Total().eval(), example=torch.ones(1, 20_000), runtime=runtime, max_batch=4)
    inputs = [torch.full((1, 20_000), float(n)) for n in range(600)]  # too large to be copied
    references = [weakref.ref(x) for x in inputs]
    stream, results = mapped(predict, inputs)
    inputs.clear()
    assert stream.drain()
    predict(torch.ones(1, 20_000))  # drops what its worker could not drop without the interpreter's lock
    kept = sum(reference() is not None for reference in references)
    assert kept <= 3 * predict._calls_ahead(None) < 600
    assert_all_close(results, [torch.full((1,), 20_000.0 * n) for n in range(600)])


def test_a_finished_map_holds_no_predictor_and_tells(hold: Any) -> None:
    done: list[Any] = []
    held = hold(queue_size=1)
    held.gate.open()
    stream, results = mapped(held.predict, rows(*range(50)), on_done=done.append)
    gone = weakref.ref(held.predict)
    held.predict = None
    gc.collect()
    assert len(list(results)) == 50
    assert done == [stream]
    feeder = stream._feeder
    if feeder is not None:
        feeder.join(HANG)
    gc.collect()
    torchpool.wrap(build(MarkerModule))(row())
    assert gone() is None


def test_a_closed_predictor_ends_the_results(hold: Any) -> None:
    held = hold(queue_size=1)
    held.hold()
    stream, results = mapped(held.predict, rows(*range(20)))
    held.predict.close(wait=False)
    held.gate.open()
    with pytest.raises(torchpool.Closed):
        list(results)
    assert stream.drain()
    _, results = mapped(held.predict, rows(1))
    with pytest.raises(torchpool.Closed):
        next(results)


def test_maps_of_four_threads_do_not_mix_and_lose_nothing(hold: Any) -> None:
    held = hold(queue_size=3)

    def work(number: int) -> None:
        for buffersize in (None, 2, None):
            stream, results = mapped(held.predict, rows(*range(100)), buffersize=buffersize)
            if number == 3:
                next(results)
                results.close()
            elif number == 2:
                assert stream.drain()
            if number != 3:
                assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(100)))
            assert stream.drain()
            assert stream.finished

    in_threads(4, work)
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]


def test_results_are_taken_while_others_drain(hold: Any) -> None:
    held = hold(queue_size=3)
    held.hold()
    stream, results = mapped(held.predict, rows(*range(300)))

    def work(number: int) -> Any:
        if number == 0:
            held.gate.open()
            return list(results)
        return stream.drain()

    taken, *drained = in_threads(4, work)
    assert drained == [True] * 3
    assert_all_close(taken, (eager(held.model.linear, row(n)) for n in range(300)))
