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
from executor_support import freed
from stream_support import drain, flood, pending, rows, seen
from support import HANG, MarkerModule, assert_all_close, assert_close, build, draw, eager, row
from support import run_threads as in_threads

import torchpool

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


@pytest.mark.parametrize("buffersize", [None, 1, 7])
@pytest.mark.parametrize("count", [0, 1, 500, 2000])
@pytest.mark.parametrize("of", [list, iter], ids=["list", "iterator"])
def test_results_come_in_the_order_of_the_inputs(
    executor: Any, predict: torchpool.Predictor, buffersize: int | None, count: int, of: Any
) -> None:
    results = executor.map(predict, of(rows(*range(count))), buffersize=buffersize)
    assert_all_close(results, expect(predict, range(count)))
    assert pending(executor) == 0


def test_several_iterables_give_one_argument_each_until_the_shortest_ends(executor: Any) -> None:
    class Sum(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    predict = torchpool.wrap(Sum().eval(), example=(row(), row()))
    results = executor.map(predict, map(row, range(10)), rows(*range(7)))
    assert_all_close(results, [row(n) + row(n) for n in range(7)])


@pytest.mark.parametrize("of", [lambda data: data, lambda data: data.numpy()], ids=["tensor", "array"])
def test_a_tensor_or_array_is_taken_row_by_row(executor: Any, of: Any) -> None:
    model = build(MarkerModule)
    data = draw(50, 4)
    predict = torchpool.wrap(model, example=data[0])
    results = executor.map(predict, of(data))
    assert_all_close(results, (eager(model, x) for x in data))
    with pytest.raises(TypeError, match="0-d array"):
        executor.map(predict, np.array(3.0))


@pytest.mark.parametrize("overflow", ["block", "reject"])
@pytest.mark.parametrize("buffersize", [None, 5])
def test_the_caller_never_waits_for_room(executor: Any, hold: Any, overflow: str, buffersize: int | None) -> None:
    held = hold(queue_size=1, overflow=overflow)
    flood(held)
    results = executor.map(held.predict, rows(*range(40)), buffersize=buffersize)
    assert pending(executor) == (buffersize or 40)
    held.gate.open()
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(40)))
    assert seen(held) == [100, *range(40)]


@pytest.mark.parametrize("of", [list, iter], ids=["list", "iterator"])
def test_all_is_computed_though_nobody_iterates(executor: Any, hold: Any, of: Any) -> None:
    held = hold()
    held.hold()
    results = executor.map(held.predict, of(rows(*range(2000))))
    held.gate.open()
    drain(executor)
    assert seen(held) == list(range(2000))
    assert pending(executor) == 0
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(2000)))


def test_dropping_the_results_before_the_first_was_taken_cancels_nothing(executor: Any, hold: Any) -> None:
    held = hold(queue_size=2)
    held.hold()
    results = executor.map(held.predict, rows(*range(300)))
    del results
    gc.collect()
    held.gate.open()
    drain(executor)
    assert seen(held) == list(range(300))


def test_whoever_takes_a_few_results_has_the_rest_computed(executor: Any, hold: Any) -> None:
    held = hold()
    results = executor.map(held.predict, rows(*range(1500)))
    for n in range(300):
        assert_close(next(results), eager(held.model.linear, row(n)))
    drain(executor)
    assert seen(held) == list(range(1500))
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(300, 1500)))


def test_inputs_that_come_slowly_are_computed_as_they_come(executor: Any, hold: Any) -> None:
    held = hold()
    computed = threading.Semaphore(0)
    held.gate.watch = lambda x: computed.release(len(x))

    def slow() -> Iterator[torch.Tensor]:
        for n in range(5):
            yield row(n)
            assert computed.acquire(timeout=HANG)  # before the next one comes

    results = executor.map(held.predict, slow())
    assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(5)))


def test_many_inputs_that_come_slowly_are_fed_by_themselves(executor: Any, hold: Any) -> None:
    held = hold()
    computed = threading.Semaphore(0)
    held.gate.watch = lambda x: computed.release(len(x))

    def slow() -> Iterator[torch.Tensor]:
        yield from map(row, range(1000))
        for _ in range(1000):
            assert computed.acquire(timeout=HANG)
        yield row(1000)

    results = executor.map(held.predict, slow())
    assert len(list(results)) == 1001


def test_with_buffersize_the_input_is_read_by_whoever_iterates(executor: Any, predict: torchpool.Predictor) -> None:
    pulled: list[int] = []

    def endless() -> Iterator[torch.Tensor]:
        for n in itertools.count():
            pulled.append(n)
            yield row(n)

    inputs = endless()
    gone = freed(inputs)
    results = executor.map(predict, inputs, buffersize=5)
    del inputs
    assert len(pulled) == 5
    drain(executor)
    assert pending(executor) == 0
    assert not gone.is_set()  # there is more to read
    for taken in range(1, 20):
        assert_close(next(results), expect(predict, [taken - 1])[0])
        assert len(pulled) == 5 + taken
    results.close()
    assert len(pulled) == 24
    drain(executor)
    gc.collect()
    assert gone.is_set()
    inputs = endless()
    gone = freed(inputs)
    results = executor.map(predict, inputs, buffersize=5)
    del inputs
    drain(executor)
    del results  # nobody can read on
    gc.collect()
    assert gone.is_set()


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("3", TypeError)])
def test_a_buffersize_that_makes_no_sense_is_refused(
    executor: Any, predict: torchpool.Predictor, wrong: Any, error: Any
) -> None:
    with pytest.raises(error, match="buffersize must be"):
        executor.map(predict, [], buffersize=wrong)


def test_a_result_is_dropped_as_it_is_handed_out(executor: Any, predict: torchpool.Predictor) -> None:
    results = executor.map(predict, rows(1, 2, 3))
    gone = weakref.ref(next(results))
    predict.close()  # waits until the worker has let go of its batch
    gc.collect()
    assert gone() is None


class Total(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(-1)


def test_results_that_nobody_takes_do_not_keep_their_inputs(executor: Any, runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Total().eval(), example=torch.ones(1, 20_000), runtime=runtime, max_batch=4)
    inputs = [torch.full((1, 20_000), float(n)) for n in range(600)]  # too large to be copied
    references = [weakref.ref(x) for x in inputs]
    results = executor.map(predict, inputs)
    inputs.clear()
    drain(executor)
    predict(torch.ones(1, 20_000))  # drops what its worker could not drop without the interpreter's lock
    kept = sum(reference() is not None for reference in references)
    assert kept <= 3 * predict._calls_ahead(None) < 600
    assert_all_close(results, [torch.full((1,), 20_000.0 * n) for n in range(600)])


@pytest.mark.parametrize("count", [50, 500])
@pytest.mark.parametrize("taken", [True, False])
def test_a_finished_map_holds_no_predictor(executor: Any, hold: Any, count: int, taken: bool) -> None:
    held = hold(queue_size=1)
    held.gate.open()
    results = executor.map(held.predict, rows(*range(count)))
    gone = weakref.ref(held.predict)
    held.predict = None
    gc.collect()
    if taken:
        assert len(list(results)) == count
    drain(executor)
    gc.collect()
    torchpool.wrap(build(MarkerModule))(row())
    assert gone() is None


def test_maps_of_four_threads_do_not_mix_and_lose_nothing(executor: Any, hold: Any) -> None:
    held = hold(queue_size=3)

    def work(number: int) -> None:
        for buffersize in (None, 2, None):
            results = executor.map(held.predict, rows(*range(100)), buffersize=buffersize)
            if number == 3:
                next(results)
                results.close()
            elif number == 2:
                drain(executor)
            if number != 3:
                assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(100)))
            drain(executor)

    in_threads(4, work)
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]


def test_results_are_taken_while_others_drain(executor: Any, hold: Any) -> None:
    held = hold(queue_size=3)
    held.hold()
    results = executor.map(held.predict, rows(*range(300)))

    def work(number: int) -> Any:
        if number == 0:
            held.gate.open()
            return list(results)
        executor.shutdown()
        return pending(executor)

    taken, *drained = in_threads(4, work)
    assert drained == [0] * 3
    assert_all_close(taken, (eager(held.model.linear, row(n)) for n in range(300)))


def test_no_more_than_the_look_ahead_is_copied_and_sent(executor: Any, hold: Any) -> None:
    held = hold(queue_size=1, max_batch=32)
    held.hold()
    inputs = rows(*range(1000))
    results = executor.map(held.predict, inputs)
    ahead = held.predict._calls_ahead(None)
    for x in inputs[ahead:]:
        x[0, 0] += 1000  # these are references to the inputs still, the others copies
    held.gate.open()
    drain(executor)
    assert seen(held) == [*range(ahead), *range(1000 + ahead, 2000)]
    results.close()


def test_a_map_of_a_predictor_that_learns_is_in_order(executor: Any) -> None:
    predict = torchpool.wrap(build(MarkerModule))
    results = executor.map(predict, rows(*range(500)))
    assert_all_close(results, (eager(predict.model, row(n)) for n in range(500)))


def test_a_map_of_a_worker_is_computed_where_it_is_made(make_executor: Any, runtime: torchpool.Runtime) -> None:
    executor, inner = make_executor(1), torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime)

    class Maps(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat(list(executor.map(inner, [x] * 300)))

    outer = torchpool.wrap(Maps().eval(), runtime=runtime, batch=False)
    future = executor.submit(outer, row(3))
    assert_close(future.result(HANG), torch.cat([eager(inner.model, row(3))] * 300))
