"""map and starmap: lazy, bounded, in order, and nothing left behind."""

from __future__ import annotations

import collections
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
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
    draws,
    eager,
    row,
    run_threads,
)
from torch import nn

import torchpool


class Sum(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return (a + b) * scale


@pytest.fixture
def predict() -> Iterator[torchpool.Predictor]:
    with torchpool.wrap(build(MarkerModule), example=row()) as predictor:
        yield predictor


def expect(predictor: torchpool.Predictor, values: Any) -> list[torch.Tensor]:
    return [eager(predictor.model, row(value)) for value in values]


def endless(pulled: list[int]) -> Iterator[torch.Tensor]:
    for n in itertools.count():
        pulled.append(n)
        yield row(n)


@pytest.mark.parametrize("buffersize", [None, 1, 7])
def test_results_come_in_the_order_of_the_inputs(predict: torchpool.Predictor, buffersize: int | None) -> None:
    results = predict.map(map(row, range(500)), buffersize=buffersize)
    assert_all_close(results, expect(predict, range(500)))


def test_work_starts_at_the_call_and_never_runs_more_than_buffersize_ahead(predict: torchpool.Predictor) -> None:
    pulled: list[int] = []
    results = predict.map(endless(pulled), buffersize=5)
    assert len(pulled) == 5
    for taken in range(1, 20):
        assert_close(next(results), eager(predict.model, row(taken - 1)))
        assert len(pulled) == 5 + taken
    results.close()
    assert len(pulled) == 24


def test_an_endless_iterable_is_read_only_a_little_ahead_by_default(predict: torchpool.Predictor) -> None:
    pulled: list[int] = []
    results = predict.map(endless(pulled))
    assert_all_close(itertools.islice(results, 1000), expect(predict, range(1000)))
    assert len(pulled) < 20_000


def test_an_empty_iterable_gives_nothing(predict: torchpool.Predictor) -> None:
    assert list(predict.map([])) == []


def test_several_iterables_give_one_argument_each_until_the_shortest_ends() -> None:
    predict = torchpool.wrap(Sum().eval(), example=(row(), row()))
    results = list(predict.map(map(row, range(10)), (row(n * 10) for n in itertools.count()), [1.0] * 7))
    assert_all_close(results, [row(n) + row(n * 10) for n in range(7)])


def test_a_tensor_is_taken_row_by_row() -> None:
    model = build(MarkerModule)
    predict = torchpool.wrap(model, example=draw(4))
    data = draw(50, 4)
    assert_all_close(predict.map(data), (eager(model, x) for x in data))


@pytest.mark.parametrize("layout", ["plain", "fortran", "negative strides"])
def test_an_array_is_taken_row_by_row_as_tensors(layout: str) -> None:
    model = build(MarkerModule)
    predict = torchpool.wrap(model, example=draw(4))
    data = draw(50, 4).numpy()
    data = {"plain": data, "fortran": np.asfortranarray(data), "negative strides": data[::-1]}[layout]
    assert_all_close(predict.map(data), (eager(model, torch.from_numpy(x.copy())) for x in data))


def test_a_read_only_array_is_taken_without_a_warning() -> None:
    model = build(MarkerModule)
    predict = torchpool.wrap(model, example=draw(4))
    data = draw(5, 4).numpy()
    data.flags.writeable = False
    assert_all_close(predict.map(data), (eager(model, torch.from_numpy(x.copy())) for x in data))


def test_starmap_takes_tuples_and_mappings() -> None:
    predict = torchpool.wrap(Sum().eval())
    a, b = row(1), row(2)
    calls = [(a, b), (a, b, 2.0), {"a": a, "b": b}, {"b": b, "a": a, "scale": 3.0}, collections.UserDict(a=a, b=b)]
    assert_all_close(predict.starmap(calls), [a + b, (a + b) * 2, a + b, (a + b) * 3, a + b])


def test_starmap_refuses_what_is_neither(predict: torchpool.Predictor) -> None:
    with pytest.raises(TypeError, match=r"starmap\(\) takes tuples .* got Tensor; for single arguments use map\(\)"):
        list(predict.starmap([row()]))


def test_timeout_counts_from_the_call_of_map(hold: Any) -> None:
    held = hold()
    held.hold()
    results = held.predict.map([row(1)], timeout=0.01)
    with pytest.raises(TimeoutError):
        next(results)
    held.gate.open()
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_timed_out_map_has_cancelled_what_had_not_started(hold: Any, ordered: bool) -> None:
    held = hold()
    held.hold()
    with pytest.raises(TimeoutError):
        list(held.predict.map(map(row, range(1, 9)), timeout=0.01, ordered=ordered))
    held.gate.open()
    held.predict.close()
    assert held.gate.seen == [MARK]
    assert held.predict.stats()["cancelled"] == 8


def test_results_that_are_ready_in_time_come_before_the_timeout(hold: Any) -> None:
    held = hold()
    results = held.predict.map([row(1), row(2), row(MARK)], timeout=1.0, buffersize=1)
    assert_all_close(itertools.islice(results, 2), [eager(held.model.linear, row(n)) for n in (1, 2)])
    with pytest.raises(TimeoutError):
        next(results)


def test_a_failed_call_raises_in_its_place_and_ends_the_map(predict: torchpool.Predictor) -> None:
    results = predict.map([row(1), row(POISON), row(3)])
    assert_close(next(results), eager(predict.model, row(1)))
    with pytest.raises(ValueError, match="a poisoned row"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("ordered", [True, False])
def test_with_return_exceptions_a_failed_call_gives_its_exception(predict: torchpool.Predictor, ordered: bool) -> None:
    results = list(
        predict.map((row(POISON if n % 10 == 3 else n) for n in range(50)), ordered=ordered, return_exceptions=True)
    )
    failed = [result for result in results if isinstance(result, ValueError)]
    assert len(results) == 50
    assert len(failed) == 5
    if ordered:
        assert [n for n, result in enumerate(results) if isinstance(result, ValueError)] == [3, 13, 23, 33, 43]


def test_a_refused_call_stands_in_its_place_too(predict: torchpool.Predictor) -> None:
    results = list(
        predict.map([row(1), torch.ones(1, 5), torch.ones(4, dtype=torch.long), row(4)], return_exceptions=True)
    )
    assert [type(result) for result in results] == [torch.Tensor, ValueError, TypeError, torch.Tensor]


def test_unordered_results_come_as_they_are_ready(hold: Any) -> None:
    held = hold()
    results = held.predict.map([row(MARK), torch.ones(1, 5)], ordered=False, return_exceptions=True)
    held.gate.wait_entered()
    assert isinstance(next(results), ValueError)  # refused, while the first call still runs
    held.gate.open()
    assert_close(next(results), eager(held.model.linear, row(MARK)))
    assert list(results) == []


@pytest.mark.parametrize("buffersize", [None, 1, 5])
def test_unordered_results_are_the_same_ones(predict: torchpool.Predictor, buffersize: int | None) -> None:
    results = list(predict.map(map(row, range(300)), ordered=False, buffersize=buffersize))
    results.sort(key=lambda y: float(y[0, 0]))
    expected = sorted(expect(predict, range(300)), key=lambda y: float(y[0, 0]))
    assert_all_close(results, expected)


def close(results: Any) -> None:
    results.close()


def leave_loop(results: Any) -> None:
    del results


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("leave", [close, leave_loop])
def test_leaving_early_cancels_the_rest(hold: Any, leave: Any, ordered: bool) -> None:
    held = hold()
    held.hold()
    leave(held.predict.map(map(row, range(1, 100)), ordered=ordered, buffersize=20))
    held.gate.open()
    held.predict.close()
    stats = held.predict.stats()
    assert held.gate.seen == [MARK]
    assert stats["cancelled"] == 20
    assert stats["accepted"] == stats["resolved"]


def test_closing_twice_is_fine_and_ends_the_iterator(predict: torchpool.Predictor) -> None:
    results = predict.map(map(row, range(10)))
    next(results)
    results.close()
    results.close()
    assert list(results) == []


def failing(error: BaseException) -> Iterator[torch.Tensor]:
    yield from map(row, range(3))
    raise error


@pytest.mark.parametrize("buffersize", [1, 3, 100])
def test_an_error_of_the_iterable_comes_after_the_results_before_it(
    predict: torchpool.Predictor, buffersize: int
) -> None:
    results = predict.map(failing(RuntimeError("no more")), buffersize=buffersize)
    assert_all_close(itertools.islice(results, 3), expect(predict, range(3)))
    with pytest.raises(RuntimeError, match="no more"):
        next(results)
    assert list(results) == []


def test_after_a_failed_call_the_iterables_own_error_is_not_raised(predict: torchpool.Predictor) -> None:
    results = predict.map(itertools.chain([row(POISON)], failing(RuntimeError("no more"))))
    with pytest.raises(ValueError, match="a poisoned row"):
        next(results)
    assert list(results) == []


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "3"])
def test_a_buffersize_that_makes_no_sense_is_refused(predict: torchpool.Predictor, wrong: Any) -> None:
    with pytest.raises(ValueError, match="buffersize must be an int of at least 1, or None, got"):
        predict.map([], buffersize=wrong)


def test_map_needs_an_iterable(predict: torchpool.Predictor) -> None:
    with pytest.raises(TypeError, match="at least one iterable"):
        predict.map()
    with pytest.raises(TypeError, match="not iterable"):
        predict.map(3)


def test_progress_without_tqdm_says_what_to_install(
    predict: torchpool.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        predict.map([row()], progress=True)


def test_progress_counts_the_results(predict: torchpool.Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    assert len(list(predict.map([row(n) for n in range(7)], progress=True))) == 7
    assert "7/7" in capsys.readouterr().err


@pytest.mark.parametrize("overflow", ["block", "reject"])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_waits_for_room_in_a_queue_of_one(overflow: Any, ordered: bool) -> None:
    runtime = torchpool.Runtime(1)
    with torchpool.wrap(
        build(MarkerModule), example=row(), queue_size=1, overflow=overflow, runtime=runtime
    ) as predict:
        results = list(predict.map(map(row, range(200)), ordered=ordered))
        assert len(results) == 200
        assert predict.stats()["rejected"] == 0
    runtime.close()


def test_maps_of_many_threads_do_not_mix() -> None:
    model = build(LSTMClassifier)
    predict = torchpool.wrap(model, example=draw(1, 50, 10))
    inputs = draws(16 * 8, 1, 50, 10)
    results = run_threads(16, lambda number: list(predict.map(inputs[number::16], buffersize=3)))
    for number in range(16):
        assert_all_close(results[number], (eager(model, x) for x in inputs[number::16]))


def test_a_map_may_be_finished_on_another_thread(predict: torchpool.Predictor) -> None:
    results = predict.map(map(row, range(100)))
    (rest,) = run_threads(1, lambda number: list(results))
    assert_all_close(rest, expect(predict, range(100)))


def test_a_map_of_a_closed_predictor_is_refused_at_the_call(predict: torchpool.Predictor) -> None:
    predict.close()
    with pytest.raises(torchpool.Closed, match="is closed"):
        predict.map([row()])


def test_a_predictor_closed_during_a_map_still_gives_what_was_in_flight(predict: torchpool.Predictor) -> None:
    results = predict.map(map(row, range(100)), buffersize=10)
    predict.close()
    assert_all_close(itertools.islice(results, 10), expect(predict, range(10)))
    with pytest.raises(torchpool.Closed):
        next(results)


def test_a_map_over_the_results_of_another_map(predict: torchpool.Predictor) -> None:
    narrow = torchpool.wrap(nn.Softmax(-1), example=draw(1, 3), runtime=torchpool.Runtime(1), queue_size=1)
    results = list(narrow.map(predict.map(map(row, range(300)))))
    assert_all_close(results, (torch.softmax(y, -1) for y in expect(predict, range(300))))
    assert narrow.submit(draw(1, 3)).result(HANG).shape == (1, 3)
