"""Awaited calls: as calls are, and the loop is never blocked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from asyncio_support import run, turns
from support import (
    HANG,
    MARK,
    POISON,
    GateModule,
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


@pytest.fixture
def predict() -> torchpool.Predictor:
    return torchpool.wrap(build(MarkerModule), example=row())


def test_an_awaited_call_gives_the_models_own_result(predict: torchpool.Predictor) -> None:
    assert_close(run(predict.acall(row(1))), eager(predict.model, row(1)))
    assert_close(run(predict.acall(x=row(1))), eager(predict.model, row(1)))


def test_a_thousand_calls_at_once_give_each_its_own_result() -> None:
    model = build(LSTMClassifier)
    predict = torchpool.wrap(model, example=draw(1, 50, 10))
    inputs = draws(50, 1, 50, 10)
    expected = [eager(model, x) for x in inputs]

    async def main() -> list[Any]:
        return await asyncio.gather(*(predict.acall(inputs[n % 50]) for n in range(1000)))

    for n, result in enumerate(run(main())):
        assert_close(result, expected[n % 50])
    stats = predict.stats()
    assert stats["accepted"] == stats["resolved"] == 1000


def test_a_thousand_first_calls_at_once_are_all_answered() -> None:
    model = build(MarkerModule)
    predict = torchpool.wrap(model)

    async def main() -> list[Any]:
        return await asyncio.gather(*(predict.acall(row(n)) for n in range(1000)))

    assert_all_close(run(main()), (eager(model, row(n)) for n in range(1000)))


@pytest.mark.parametrize("buffersize", [None, 1, 7])
def test_amap_gives_results_in_order(predict: torchpool.Predictor, buffersize: int | None) -> None:
    async def main() -> list[Any]:
        return [y async for y in predict.amap(map(row, range(300)), buffersize=buffersize)]

    assert_all_close(run(main()), (eager(predict.model, row(n)) for n in range(300)))


def test_amap_reads_only_buffersize_ahead(predict: torchpool.Predictor) -> None:
    pulled: list[int] = []

    def endless() -> Iterator[torch.Tensor]:
        for n in itertools.count():
            pulled.append(n)
            yield row(n)

    async def main() -> None:
        async with contextlib.aclosing(predict.amap(endless(), buffersize=5)) as results:
            for taken in range(20):
                assert_close(await anext(results), eager(predict.model, row(taken)))
                assert len(pulled) <= taken + 5

    run(main())


def test_amap_takes_the_rows_of_a_tensor() -> None:
    model = build(MarkerModule)
    predict = torchpool.wrap(model, example=draw(4))
    data = draw(20, 4)

    async def main() -> list[Any]:
        return [y async for y in predict.amap(data)]

    assert_all_close(run(main()), (eager(model, x) for x in data))


@pytest.mark.parametrize("leave", ["close", "cancel"])
def test_leaving_amap_early_cancels_the_rest(hold: Any, leave: str) -> None:
    held = hold()
    held.hold()

    async def main() -> None:
        results = held.predict.amap(map(row, itertools.count(1)), buffersize=10)
        first = asyncio.ensure_future(anext(results))
        await turns()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        if leave == "close":
            await results.aclose()
        held.gate.open()

    run(main())
    held.predict.close()
    assert held.gate.seen == [MARK]
    assert held.predict.stats()["cancelled"] == 10


def test_a_failed_call_raises_in_its_place_and_ends_amap(predict: torchpool.Predictor) -> None:
    async def main() -> int:
        count = 0
        with pytest.raises(ValueError, match="a poisoned row"):
            async for _ in predict.amap([row(1), row(2), row(POISON), row(4)]):
                count += 1
        return count

    assert run(main()) == 2


def test_with_return_exceptions_amap_goes_on(predict: torchpool.Predictor) -> None:
    async def main() -> list[Any]:
        return [y async for y in predict.amap([row(1), row(POISON), row(3)], return_exceptions=True)]

    assert [type(y) for y in run(main())] == [torch.Tensor, type(predict.submit(row(POISON)).exception()), torch.Tensor]


def test_an_error_of_amaps_iterable_comes_after_the_results_before_it(predict: torchpool.Predictor) -> None:
    def failing() -> Iterator[torch.Tensor]:
        yield from map(row, range(3))
        raise RuntimeError("no more")

    async def main() -> list[Any]:
        results = []
        with pytest.raises(RuntimeError, match="no more"):
            async for y in predict.amap(failing()):
                results.append(y)
        return results

    assert len(run(main())) == 3


def test_amap_refuses_a_buffersize_that_makes_no_sense(predict: torchpool.Predictor) -> None:
    with pytest.raises(ValueError, match="buffersize must be an int of at least 1"):
        predict.amap([], buffersize=0)


def test_cancelling_a_task_takes_its_call_out_of_the_queue(hold: Any) -> None:
    held = hold(queue_size=1, overflow="reject")
    held.hold()

    async def main() -> Any:
        first = asyncio.ensure_future(held.predict.acall(row(1)))
        await turns()
        with pytest.raises(torchpool.QueueFull):
            await held.predict.acall(row(2))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        third = asyncio.ensure_future(held.predict.acall(row(3)))
        await turns()
        held.gate.open()
        return await third

    assert_close(run(main()), eager(held.model, row(3)))
    assert held.gate.seen[:2] == [MARK, 3]
    assert held.predict.stats()["cancelled"] == 1


def test_a_task_whose_call_waits_for_room_can_be_cancelled(hold: Any, caplog: pytest.LogCaptureFixture) -> None:
    held = hold(queue_size=1)
    held.hold()
    waiting = held.predict.submit(row(1))

    async def main() -> None:
        blocked = asyncio.ensure_future(held.predict.acall(row(2)))
        await turns()
        blocked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocked
        held.gate.open()

    run(main())
    waiting.result(HANG)
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]
    assert stats["waiting_rows"] == 0
    assert held.gate.seen == [MARK, 1]
    gc.collect()
    assert not caplog.records  # such as "Future exception was never retrieved"


def test_cancelling_a_task_whose_call_runs_leaves_the_predictor_usable(hold: Any) -> None:
    held = hold()

    async def main() -> Any:
        running = asyncio.ensure_future(held.predict.acall(row(MARK)))
        await turns()
        held.gate.wait_entered()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        held.gate.open()
        return await held.predict.acall(row(1))

    assert_close(run(main()), eager(held.model, row(1)))


def test_learning_from_the_first_call_does_not_block_the_loop() -> None:
    model = build(GateModule)
    predict = torchpool.wrap(model)

    async def main() -> Any:
        first = asyncio.ensure_future(predict.acall(row(MARK)))
        await turns()
        await asyncio.to_thread(model.gate.wait_entered)
        assert not first.done()
        model.gate.open()
        return await first

    assert_close(run(main()), eager(model, row(MARK)))


def test_a_full_queue_does_not_block_the_loop(hold: Any) -> None:
    held = hold(queue_size=1)
    held.hold()

    async def main() -> list[Any]:
        calls = [asyncio.ensure_future(held.predict.acall(row(n))) for n in range(20)]
        await turns()
        assert not any(call.done() for call in calls)
        held.gate.open()
        return await asyncio.gather(*calls)

    assert_all_close(run(main()), (eager(held.model, row(n)) for n in range(20)))


def test_a_full_queue_that_rejects_raises_queue_full(hold: Any) -> None:
    held = hold(queue_size=1, overflow="reject")
    held.hold()
    held.predict.submit(row(1))
    with pytest.raises(torchpool.QueueFull, match="1 rows wait"):
        run(held.predict.acall(row(2)))


def test_amap_waits_for_room_where_a_call_is_rejected() -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row(), queue_size=1, overflow="reject")

    async def main() -> list[Any]:
        return [y async for y in predict.amap(map(row, range(50)))]

    assert len(run(main())) == 50


def test_loops_of_two_threads_each_get_their_own(predict: torchpool.Predictor) -> None:
    async def main(first: int) -> list[Any]:
        return await asyncio.gather(*(predict.acall(row(n)) for n in range(first, first + 200)))

    results = run_threads(2, lambda number: run(main(number * 200)))
    for number in range(2):
        assert_all_close(
            results[number], (eager(predict.model, row(n)) for n in range(number * 200, number * 200 + 200))
        )


def test_a_poisoned_call_fails_alone(predict: torchpool.Predictor) -> None:
    async def main() -> list[Any]:
        calls = (predict.acall(row(POISON if n == 5 else n)) for n in range(20))
        return await asyncio.gather(*calls, return_exceptions=True)

    results = run(main())
    assert isinstance(results.pop(5), ValueError)
    assert all(isinstance(result, torch.Tensor) for result in results)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (StopIteration(3), RuntimeError),
        (KeyError("k"), KeyError),
        (TimeoutError("t"), TimeoutError),
        (asyncio.CancelledError(), asyncio.CancelledError),
        (SystemExit(3), SystemExit),
    ],
)
def test_any_exception_of_the_model_reaches_the_awaiting_task(raised: BaseException, expected: type) -> None:
    class Raising(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if bool((x == POISON).any()):
                raise raised
            return x * 2

    predict = torchpool.wrap(Raising().eval(), example=row())

    async def main() -> None:
        with pytest.raises(expected):
            await predict.acall(row(POISON))

    run(main())
    assert_close(predict(row(1)), row(1) * 2)


def test_a_refused_call_raises_at_the_await(predict: torchpool.Predictor) -> None:
    with pytest.raises(ValueError, match="input 'x' has size 5 in dim 1"):
        run(predict.acall(torch.ones(1, 5)))


def test_a_deadline_holds_for_awaited_calls(hold: Any) -> None:
    held = hold()
    held.hold()
    with pytest.raises(TimeoutError, match="deadline"):
        run(held.predict.options(deadline=0.01).acall(row(1)))


def test_a_loop_that_ends_with_calls_in_flight_leaves_the_predictor_usable(hold: Any) -> None:
    held = hold()

    async def main() -> None:
        for n in (MARK, 1, 2):
            held.tasks = [asyncio.ensure_future(held.predict.acall(row(n)))]
            await turns()
        held.gate.wait_entered()

    run(main())
    held.gate.open()
    assert_close(held.predict(row(3)), eager(held.model, row(3)))
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]


def test_awaited_calls_of_a_closed_predictor_raise(predict: torchpool.Predictor) -> None:
    predict.close()
    with pytest.raises(torchpool.Closed):
        run(predict.acall(row(1)))
