"""map's schedules: how calls are parted into batches, with the same results in the same order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from bad_models import Noted
from support import HANG, MARK, POISON, MarkerModule, assert_all_close, assert_close, build, draws, eager, row
from torch import nn

import torchpool

SCHEDULES = [None, "guided", "guided,4", "dynamic", "dynamic,3", " dynamic , 16 "]


class Sum(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


@pytest.fixture
def rows() -> list[int]:
    """Of each run of a model that notes them here."""
    return []


@pytest.fixture
def wrapped(runtime: torchpool.Runtime, rows: list[int]) -> Iterator[Callable[..., torchpool.Predictor]]:
    """Makes predictors on one worker whose model notes its rows."""

    def make(**options: Any) -> torchpool.Predictor:
        model = Noted(build(MarkerModule), rows.append).eval()
        predict = torchpool.wrap(model, example=row(), backend="python", runtime=runtime, **options)
        rows.clear()  # of probing
        return predict

    yield make


def expect(predict: torchpool.Predictor, values: Any) -> list[torch.Tensor]:
    return [eager(predict.model.inner, row(value)) for value in values]


def assert_all_resolved(predict: torchpool.Predictor) -> None:
    predict.close()
    stats = predict.stats()
    assert stats["accepted"] == stats["resolved"]
    assert stats["waiting_rows"] == stats["running_batches"] == 0


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_results_are_equal_and_in_order(wrapped: Any, schedule: str | None, count: int) -> None:
    predict = wrapped()
    inputs = [row(n) for n in range(count)]
    assert_all_close(predict.map(inputs, schedule=schedule), expect(predict, range(count)))
    assert_all_close(predict.starmap([(x,) for x in inputs], schedule=schedule), expect(predict, range(count)))
    assert_all_resolved(predict)
    assert predict.stats()["succeeded"] == 2 * count


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_two_workers_give_the_same(schedule: str | None) -> None:
    runtime = torchpool.Runtime(2)
    model = build(MarkerModule)
    with torchpool.wrap(model, example=row(), runtime=runtime, max_batch=16) as predict:
        inputs = draws(200, 1, 4)
        assert_all_close(predict.map(inputs, schedule=schedule), (eager(model, x) for x in inputs))
    runtime.close()


@pytest.mark.parametrize("schedule", ["guided", "dynamic,2"])
def test_starmap_takes_several_arguments(runtime: torchpool.Runtime, schedule: str) -> None:
    predict = torchpool.wrap(Sum().eval(), example=(row(), row()), runtime=runtime)
    calls: list[Any] = [(row(n), row(1)) if n % 2 else {"a": row(n), "b": row(1)} for n in range(30)]
    assert_all_close(predict.starmap(calls, schedule=schedule), (row(n) + row(1) for n in range(30)))
    several = predict.map([row(n) for n in range(30)], itertools.repeat(row(1)), schedule=schedule)
    assert_all_close(several, (row(n) + row(1) for n in range(30)))


@pytest.mark.parametrize("buffersize", [1, 3, 7, 100])
@pytest.mark.parametrize("schedule", ["guided,4", "dynamic,3"])
def test_any_buffersize_goes_with_any_schedule(wrapped: Any, schedule: str, buffersize: int) -> None:
    predict = wrapped()
    results = predict.map([row(n) for n in range(60)], schedule=schedule, buffersize=buffersize)
    assert_all_close(results, expect(predict, range(60)))


@pytest.mark.parametrize(
    "wrong",
    [*("", "gided", "Dynamic", "static", ",4"), *(f"guided,{chunk}" for chunk in ("", "0", "-1", "2.5", "x", "2,3"))],
)
@pytest.mark.parametrize("way", ["map", "starmap"])
def test_a_schedule_that_makes_no_sense_is_refused_before_any_work(
    wrapped: Any, rows: list[int], way: str, wrong: str
) -> None:
    predict = wrapped()
    pulled: list[int] = []
    inputs = (pulled.append(n) or row(n) for n in range(5))
    with pytest.raises(ValueError, match="schedule must be 'guided' or 'dynamic', perhaps with a chunk"):
        getattr(predict, way)(inputs, schedule=wrong)
    assert (pulled, rows, predict.stats()["accepted"]) == ([], [], 0)


@pytest.mark.parametrize("wrong", [3, b"dynamic", ("dynamic", 4)])
def test_a_schedule_that_is_no_text_is_refused(wrapped: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match="schedule must be a str or None, got"):
        wrapped().map([row()], schedule=wrong)


@pytest.mark.parametrize("schedule", ["guided", "guided,4", "dynamic", "dynamic,3"])
def test_a_schedule_takes_what_has_no_end(wrapped: Any, schedule: str) -> None:
    predict = wrapped()
    pulled: list[int] = []
    inputs = (pulled.append(n) or row(n) for n in itertools.count())
    results = predict.map(inputs, schedule=schedule, buffersize=9)
    assert_all_close(itertools.islice(results, 50), expect(predict, range(50)))
    results.close()
    assert len(pulled) <= 59
    assert_all_resolved(predict)


@pytest.mark.parametrize("schedule", ["guided,4", "dynamic,3"])
def test_results_out_of_order_are_the_same_ones(wrapped: Any, schedule: str) -> None:
    predict = wrapped()
    results = list(predict.map(map(row, range(100)), schedule=schedule, ordered=False))
    assert_all_close(
        sorted(results, key=lambda y: float(y[0, 0])),
        sorted(expect(predict, range(100)), key=lambda y: float(y[0, 0])),
    )


def test_a_dynamic_chunk_is_the_most_of_a_batch(wrapped: Any, rows: list[int]) -> None:
    predict = wrapped()
    list(predict.map(map(row, range(100)), schedule="dynamic,3"))
    assert sum(rows) == 100
    assert max(rows) <= 3


@pytest.mark.parametrize("schedule", ["guided", "guided,30", "dynamic", "dynamic,30"])
def test_no_batch_is_larger_than_max_batch(wrapped: Any, rows: list[int], schedule: str) -> None:
    predict = wrapped(max_batch=6)
    assert_all_close(predict.map([row(n) for n in range(100)], schedule=schedule), expect(predict, range(100)))
    assert sum(rows) == 100
    assert max(rows) <= 6
    assert predict.stats()["batch_rows"]["max"] <= 6


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_call_that_fails_raises_in_its_turn_and_ends_the_map(wrapped: Any, schedule: str | None) -> None:
    predict = wrapped()
    results = predict.map([row(POISON if n == 17 else n) for n in range(40)], schedule=schedule)
    assert_all_close(itertools.islice(results, 17), expect(predict, range(17)))
    with pytest.raises(ValueError, match="a poisoned row"):
        next(results)
    assert list(results) == []
    assert_close(predict.submit(row(3)).result(HANG), eager(predict.model.inner, row(3)))
    assert_all_resolved(predict)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_return_exceptions_a_failed_call_hurts_no_other(wrapped: Any, schedule: str | None) -> None:
    predict = wrapped()
    values = [POISON if n % 9 == 4 else n for n in range(50)]
    results = list(predict.map([row(value) for value in values], schedule=schedule, return_exceptions=True))
    for value, result in zip(values, results, strict=True):
        if value == POISON:
            assert isinstance(result, ValueError)
        else:
            assert_close(result, eager(predict.model.inner, row(value)))
    assert_all_resolved(predict)
    assert predict.stats()["failed"] == values.count(POISON)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_refused_call_stands_in_its_place(wrapped: Any, schedule: str | None) -> None:
    inputs = [row(1), torch.ones(1, 5), torch.ones(1, 4, dtype=torch.long), row(4)]
    results = list(wrapped().map(inputs, schedule=schedule, return_exceptions=True))
    assert [isinstance(result, torch.Tensor) for result in results] == [True, False, False, True]
    assert all(isinstance(result, Exception) for result in results[1:3])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_calls_of_different_numbers_of_rows(wrapped: Any, schedule: str | None) -> None:
    predict = wrapped(max_batch=8)
    inputs = [row(n, rows=1 + n % 4) for n in range(40)]
    assert_all_close(predict.map(inputs, schedule=schedule), (eager(predict.model.inner, x) for x in inputs))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_closing_half_way_frees_the_queue(hold: Any, schedule: str | None) -> None:
    held = hold(queue_size=8, max_batch=2)
    held.hold()
    inputs = [row(n) for n in range(1, 100)]
    results = held.predict.map(inputs, schedule=schedule, buffersize=8)
    results.close()
    assert held.predict.stats()["waiting_rows"] == 0
    later = [held.predict.submit(row(1000 + n)) for n in range(8)]  # as many as the queue holds: these do not block
    held.gate.open()
    assert_all_close((f.result(HANG) for f in later), [eager(held.model.linear, row(1000 + n)) for n in range(8)])
    assert held.gate.seen == [MARK, *range(1000, 1008)]
    assert_all_resolved(held.predict)
    assert held.predict.stats()["cancelled"] == held.predict.stats()["accepted"] - 9 > 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_map_waits_for_room_in_a_small_queue(runtime: torchpool.Runtime, schedule: str | None) -> None:
    model = build(MarkerModule)
    predict = torchpool.wrap(model, example=row(), queue_size=1, overflow="reject", runtime=runtime)
    inputs = [row(n) for n in range(60)]
    assert_all_close(predict.map(inputs, schedule=schedule), (eager(model, x) for x in inputs))
    assert predict.stats()["rejected"] == 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_view_maps_by_the_same_schedules(wrapped: Any, schedule: str | None) -> None:
    predict = wrapped()
    view = predict.options(priority=1, deadline=HANG)
    assert_all_close(view.map([row(n) for n in range(60)], schedule=schedule), expect(predict, range(60)))


@pytest.mark.parametrize("schedule", ["guided,5", "dynamic,3"])
def test_the_rows_of_a_tensor_are_scheduled_too(runtime: torchpool.Runtime, schedule: str) -> None:
    model = build(MarkerModule)
    predict = torchpool.wrap(model, example=torch.zeros(4), runtime=runtime)
    data = torch.cat(draws(50, 1, 4))
    assert_all_close(predict.map(data, schedule=schedule), (eager(model, x) for x in data))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_closed_predictor_maps_nothing(wrapped: Any, schedule: str | None) -> None:
    predict = wrapped()
    predict.close()
    with pytest.raises(torchpool.Closed):
        predict.map([row(n) for n in range(10)], schedule=schedule)
