"""stats(): what was accepted is resolved, and each count counts what it says."""

from __future__ import annotations

import asyncio

import pytest
import torch
from bad_models import POISON, Raiser, busy, outcome, together
from support import HANG, build, draw, draws, run_threads

import torchpool

Tensor = torch.Tensor


def _bad() -> Tensor:
    return torch.full((1, 4), POISON)


def _resolved(predict: torchpool.Predictor) -> dict[str, int]:
    stats = predict.stats()
    ends = {name: stats[name] for name in ("succeeded", "failed", "cancelled", "expired")}
    assert stats["accepted"] == stats["resolved"] == sum(ends.values())
    assert stats["waiting_rows"] == 0
    return ends


def test_every_way_of_calling_is_counted_once(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime)
    assert predict.stats()["accepted"] == 0, "probing is no call"
    predict(draw(1, 4))
    predict.submit(draw(1, 4)).result(HANG)
    list(predict.map(draws(5, 1, 4)))
    list(predict.starmap([(draw(1, 4),)]))
    asyncio.run(_awaited(predict))
    assert _resolved(predict) == {"succeeded": 9, "failed": 0, "cancelled": 0, "expired": 0}


async def _awaited(predict: torchpool.Predictor) -> None:
    await predict.acall(draw(1, 4))


def test_failures_are_counted_for_the_calls_that_failed(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime)
    together(predict, runtime, [(_bad() if i in (2, 5) else x,) for i, x in enumerate(draws(8, 1, 4))])
    outcome(predict, _bad())
    assert _resolved(predict) == {"succeeded": 6, "failed": 3, "cancelled": 0, "expired": 0}


def test_cancelled_and_expired_calls_are_counted(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime)
    with busy(runtime):
        futures = [predict.submit(x) for x in draws(4, 1, 4)]
        assert futures[1].cancel() and futures[2].cancel()
        late = predict.options(deadline=0.2).submit(draw(1, 4))
        assert isinstance(late.exception(HANG), TimeoutError)
    for i in (0, 3):
        futures[i].result(HANG)
    assert _resolved(predict) == {"succeeded": 2, "failed": 0, "cancelled": 2, "expired": 1}


def test_batches_and_their_rows_are_counted(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime, max_batch=4)
    together(predict, runtime, [(draw(rows, 4),) for rows in (1, 2, 1, 3, 1)])
    rows = predict.stats()["batch_rows"]
    assert (rows["count"], rows["mean"], rows["max"]) == (2, 4.0, 4)
    assert predict.stats()["max_batch"] == 4


def test_times_are_in_seconds_and_counted_per_batch_and_call(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime)
    together(predict, runtime, [(x,) for x in draws(5, 1, 4)])
    predict.close()
    stats = predict.stats()
    assert stats["queue_seconds"]["count"] == 5
    assert stats["run_seconds"]["count"] == stats["batch_seconds"]["count"] == 1
    for name in ("queue_seconds", "batch_seconds", "run_seconds"):
        assert 0 < stats[name]["mean"] <= stats[name]["max"] < HANG
        assert stats[name]["p50"] <= stats[name]["p99"] <= stats[name]["max"]


def test_a_lone_call_is_counted_as_inline(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime)
    for _ in range(3):
        predict(draw(1, 4))
    assert predict.stats()["inline"] == 3
    assert predict.stats()["batch_rows"]["count"] == 0


def test_rejected_calls_are_counted_and_not_accepted(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime, queue_size=3, overflow="reject")
    with busy(runtime):
        futures = [predict.submit(x) for x in draws(3, 1, 4)]
        for _ in range(2):
            with pytest.raises(torchpool.QueueFull):
                predict.submit(draw(1, 4))
        assert predict.stats()["waiting_rows"] == 3
    for future in futures:
        future.result(HANG)
    assert predict.stats()["rejected"] == 2
    assert _resolved(predict) == {"succeeded": 3, "failed": 0, "cancelled": 0, "expired": 0}


def test_calls_that_depart_from_the_contract_are_counted_too(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(torch.nn.ReLU().eval(), example=draw(1, 4), runtime=runtime)
    predict(draw(1, 5))
    predict.submit(draw(0, 4)).result(HANG)
    assert _resolved(predict)["succeeded"] == 2


def test_calls_refused_for_their_shape_are_counted_as_failed(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime)
    assert isinstance(outcome(predict, draw(1, 5)), ValueError)
    assert _resolved(predict)["failed"] == 1


def test_everything_is_resolved_after_many_threads(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime)

    def work(number: int) -> None:
        for i, x in enumerate(draws(20, 1 + number % 3, 4)):
            if i % 5 == 0:
                x[0, 0] = POISON
            if i % 3:
                outcome(predict, x)
            else:
                predict.submit(x).exception(HANG)

    run_threads(8, work)
    assert _resolved(predict) == {"succeeded": 128, "failed": 32, "cancelled": 0, "expired": 0}


def test_stats_name_the_predictor_and_the_workers(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime, name="scorer")
    stats = predict.stats()
    assert (stats["name"], stats["workers"], stats["running_batches"]) == ("scorer", 1, 0)
