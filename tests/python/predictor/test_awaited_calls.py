"""What `acall` gives is a future of its loop and a coroutine: each of asyncio's ways takes it."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import torch
import uvloop
from asyncio_support import plainly, run, turns
from support import HANG, MARK, POISON, MarkerModule, Poisoned, assert_all_close, assert_close, build, eager, row

import torchpool


@pytest.fixture
def predict() -> torchpool.Predictor:
    return torchpool.wrap(build(MarkerModule), example=row())


async def in_task_group(call: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(call)
    return task.result()


async def by_callback(call: Any) -> Any:
    done = asyncio.Event()
    call.add_done_callback(lambda _: done.set())
    await done.wait()
    return call.result()


async def first_completed(call: Coroutine[Any, Any, Any]) -> Any:
    return await next(iter(asyncio.as_completed([call])))


async def waited(call: Coroutine[Any, Any, Any]) -> Any:
    done, _ = await asyncio.wait({asyncio.create_task(call)})
    return done.pop().result()


WAYS: dict[str, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    "await": plainly,
    "create_task": lambda call: plainly(asyncio.create_task(call)),  # type: ignore[arg-type]
    "TaskGroup": in_task_group,
    "wait_for": lambda call: asyncio.wait_for(call, HANG),
    "shield": lambda call: plainly(asyncio.shield(call)),  # type: ignore[arg-type]
    "as_completed": first_completed,
    "wait": waited,
    "callback": by_callback,
    "wrap_future": lambda call: plainly(asyncio.ensure_future(call)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_models_own_result(predict: torchpool.Predictor, way: str, new_loop: Any) -> None:
    async def main() -> Any:
        return await WAYS[way](predict.acall(row(1)))

    assert_close(run(main(), new_loop), eager(predict.model, row(1)))


def test_uvloop_maps_and_cancels(hold: Any) -> None:
    held = hold()
    held.hold()

    async def main() -> list[Any]:
        results = held.predict.amap(map(row, range(1, 100)), buffersize=10)
        cancelled = asyncio.ensure_future(held.predict.acall(row(200)))
        await turns()
        cancelled.cancel()
        held.gate.open()
        return [y async for y in results]

    assert_all_close(run(main(), uvloop.new_event_loop), (eager(held.model, row(n)) for n in range(1, 100)))
    held.predict.close()
    assert 200 not in held.gate.seen


@pytest.mark.parametrize("way", WAYS)
def test_every_way_raises_what_the_model_raises(predict: torchpool.Predictor, way: str) -> None:
    async def main() -> Any:
        call = predict.acall(row(POISON))
        if way != "TaskGroup":
            return await WAYS[way](call)
        with pytest.raises(ExceptionGroup) as group:
            await in_task_group(call)
        raise group.value.exceptions[0]

    with pytest.raises(Poisoned, match="a poisoned row"):
        run(main())


@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"as_completed", "callback", "shield", "wait"}))
def test_cancelling_who_waits_takes_the_call_out_of_the_queue(hold: Any, way: str) -> None:
    held = hold()
    held.hold()

    async def main() -> None:
        waiting = asyncio.create_task(WAYS[way](held.predict.acall(row(1))))
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await turns()
        held.gate.open()

    run(main())
    held.predict.close()
    assert held.gate.seen == [MARK]
    assert held.predict.stats()["cancelled"] == 1


def test_a_cancelled_shield_leaves_its_call(hold: Any) -> None:
    held = hold()
    held.hold()

    async def main() -> Any:
        call = held.predict.acall(row(1))
        shielded = asyncio.shield(call)
        await turns()
        shielded.cancel()
        held.gate.open()
        return await call

    assert_close(run(main()), eager(held.model, row(1)))


def test_wait_for_gives_up_and_cancels(hold: Any) -> None:
    held = hold()
    held.hold()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(held.predict.acall(row(1)), 0.001)
        held.gate.open()

    run(main())
    held.predict.close()
    assert held.gate.seen == [MARK]


def test_gather_makes_no_tasks(predict: torchpool.Predictor) -> None:
    async def main() -> list[Any]:
        before = asyncio.all_tasks()
        together = asyncio.gather(*(predict.acall(row(n)) for n in range(50)))
        assert asyncio.all_tasks() == before
        return await together

    assert_all_close(run(main()), (eager(predict.model, row(n)) for n in range(50)))


def test_a_refused_call_fails_in_its_place(predict: torchpool.Predictor) -> None:
    async def main() -> list[Any]:
        calls = [predict.acall(row(1)), predict.acall(no_such=1), predict.acall(row(2))]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, refused, last = run(main())
    assert isinstance(refused, TypeError)
    assert_all_close([first, last], [eager(predict.model, row(n)) for n in (1, 2)])


def test_a_closed_predictor_raises_when_awaited(predict: torchpool.Predictor) -> None:
    predict.close()

    async def main() -> None:
        call = predict.acall(row(1))
        with pytest.raises(torchpool.Closed):
            await call

    run(main())


def test_a_failure_that_nobody_asked_for_is_reported(predict: torchpool.Predictor) -> None:
    reported: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        done = asyncio.Event()
        predict.acall(no_such=1).add_done_callback(lambda _: done.set())  # type: ignore[attr-defined]
        await done.wait()
        await turns()
        gc.collect()

    run(main())
    assert [type(context["exception"]) for context in reported] == [TypeError]
    assert "never retrieved" in reported[0]["message"]


def test_an_abandoned_amap_reports_nothing(predict: torchpool.Predictor) -> None:
    reported: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        results = predict.amap([row(1), *([row(POISON)] * 5)])
        await anext(results)
        await asyncio.wait_for(predict.acall(row(2)), HANG)  # a batch later: the others have failed
        await results.aclose()
        gc.collect()

    run(main())
    assert reported == []


def test_a_raised_error_keeps_nothing_alive(predict: torchpool.Predictor) -> None:
    """The error's traceback holds the frame, which must not hold the error."""

    async def main() -> weakref.ref[Any]:
        x = row(POISON)
        with pytest.raises(Poisoned):
            await predict.acall(x)
        return weakref.ref(x)

    gc.collect()
    gc.disable()
    try:
        assert run(main())() is None
    finally:
        gc.enable()


def test_without_a_running_loop_it_is_a_coroutine(predict: torchpool.Predictor) -> None:
    call = predict.acall(row(1))
    assert inspect.iscoroutine(call)
    assert predict.stats()["accepted"] == 0  # not begun
    assert_close(asyncio.run(call), eager(predict.model, row(1)))


def test_another_thread_may_send_it_to_a_loop(predict: torchpool.Predictor) -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        future = asyncio.run_coroutine_threadsafe(predict.acall(row(1)), loop)
        assert_close(future.result(HANG), eager(predict.model, row(1)))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_libraries_take_it_for_a_coroutine_function(predict: torchpool.Predictor) -> None:
    for acall in (predict.acall, predict.options(priority=1).acall):
        assert asyncio.iscoroutinefunction(acall) or inspect.iscoroutinefunction(acall)


@pytest.mark.parametrize("proven", [False, True], ids=["learning", "proven"])
def test_a_stop_iteration_comes_as_a_runtime_error(proven: bool) -> None:
    class Stopping(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if bool((x == POISON).any()):
                raise StopIteration
            return x * 2

    predict = torchpool.wrap(Stopping(), backend="python", example=row(1) if proven else None)

    async def main() -> None:
        await predict.acall(row(POISON))

    with pytest.raises(RuntimeError, match="StopIteration"):
        run(main())
