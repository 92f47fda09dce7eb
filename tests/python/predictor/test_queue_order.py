"""Who goes first, who never runs and who waits for room, for every way of calling."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from support import HANG, MARK, Held, assert_all_close, assert_close, eager, row

import torchpool

SOON = 0.02  # seconds; a deadline that is to pass
Ways = dict[str, Callable[[Any, float], Any]]

# From a predictor or view and a value, on a thread of its own: the result.
WAYS: Ways = {
    "call": lambda calls, value: calls(row(value)),
    "submit": lambda calls, value: calls.submit(row(value)).result(HANG),
    "map": lambda calls, value: next(calls.map([row(value)])),
    "map unordered": lambda calls, value: next(calls.map([row(value)], ordered=False)),
    "starmap": lambda calls, value: next(calls.starmap([(row(value),)])),
    "acall": lambda calls, value: run(calls.acall(row(value))),
    "amap": lambda calls, value: run(first_of(calls.amap([row(value)]))),
}


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, HANG))


async def first_of(results: Any) -> Any:
    async with contextlib.aclosing(results):
        return await anext(results)


async def turns(count: int = 5) -> None:
    """Lets the loop go round, which it cannot while it is blocked."""
    for _ in range(count):
        await asyncio.sleep(0)


def wait_accepted(held: Held, count: int) -> None:
    """Until so many calls stand in the queue or in line."""
    for _ in range(int(HANG / 0.001)):
        if held.predict.stats()["accepted"] >= count:
            return
        threading.Event().wait(0.001)
    raise AssertionError("the calls never came")


def assert_all_resolved(held: Held) -> None:
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]
    assert stats["waiting_rows"] == stats["running_batches"] == 0


@pytest.fixture
def threads() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.mark.parametrize("way", WAYS)
def test_a_call_of_higher_priority_runs_before_those_that_wait(hold: Any, threads: Any, way: str) -> None:
    held = hold(max_batch=2)
    held.hold()
    low = [held.predict.submit(row(n)) for n in range(1, 31)]
    high = threads.submit(WAYS[way], held.predict.options(priority=7), 1000)
    wait_accepted(held, 32)
    held.gate.open()
    assert_close(high.result(HANG), eager(held.model.linear, row(1000)))
    concurrent.futures.wait(low, HANG)
    assert held.gate.seen[:2] == [MARK, 1000]
    assert sorted(held.gate.seen[1:]) == [*range(1, 31), 1000]
    assert_all_resolved(held)


@pytest.mark.parametrize("way", WAYS)
def test_a_call_of_lower_priority_runs_after_those_that_came_later(hold: Any, threads: Any, way: str) -> None:
    held = hold(max_batch=1)
    held.hold()
    low = threads.submit(WAYS[way], held.predict.options(priority=-1), 1000)
    wait_accepted(held, 2)
    later = [held.predict.submit(row(n)) for n in range(1, 11)]
    held.gate.open()
    low.result(HANG)
    concurrent.futures.wait(later, HANG)
    assert held.gate.seen == [MARK, *range(1, 11), 1000]


@pytest.mark.parametrize("way", WAYS)
def test_of_one_priority_the_earliest_deadline_goes_first(hold: Any, threads: Any, way: str) -> None:
    held = hold(max_batch=1)
    held.hold()
    endless = [held.predict.submit(row(n)) for n in range(1, 6)]
    late = held.predict.options(deadline=HANG).submit(row(6))
    # Above the others by its deadline, if it is soon enough to count for more than their age.
    urgent = threads.submit(WAYS[way], held.predict.options(deadline=0.5), 1000)
    wait_accepted(held, 8)
    held.gate.open()
    concurrent.futures.wait([*endless, late], HANG)
    if urgent.exception(HANG) is None:  # on a busy machine it may have expired
        assert held.gate.seen[:2] == [MARK, 1000]
    assert held.gate.seen[-1] == 6, "a call's age counts as a deadline of a second does"


@pytest.mark.parametrize("way", WAYS)
def test_an_expired_call_raises_and_never_reaches_the_model(hold: Any, way: str) -> None:
    held = hold(max_batch=4)
    held.hold()
    with pytest.raises(TimeoutError):
        WAYS[way](held.predict.options(deadline=SOON, priority=3), 1000)
    kept = held.predict.submit(row(1))
    held.gate.open()
    assert_close(kept.result(HANG), eager(held.model.linear, row(1)))
    assert held.gate.seen == [MARK, 1]
    assert_all_resolved(held)
    assert held.predict.stats()["expired"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_an_expired_call_frees_its_place(hold: Any, way: str) -> None:
    held = hold(queue_size=1, overflow="reject")
    held.hold()
    with pytest.raises(TimeoutError):
        WAYS[way](held.predict.options(deadline=SOON), 1000)
    kept = held.predict.submit(row(1))  # would be rejected otherwise
    with pytest.raises(torchpool.QueueFull):
        held.predict.submit(row(2))
    held.gate.open()
    kept.result(HANG)
    assert held.gate.seen == [MARK, 1]


def test_cancelled_futures_never_run_and_free_their_places(hold: Any) -> None:
    held = hold(queue_size=5, overflow="reject", max_batch=2)
    held.hold()
    futures = [held.predict.options(priority=n).submit(row(n)) for n in range(1, 6)]
    with pytest.raises(torchpool.QueueFull):
        held.predict.submit(row(6))
    assert futures[1].cancel() and futures[4].cancel()
    more = [held.predict.submit(row(n)) for n in (7, 8)]
    with pytest.raises(torchpool.QueueFull):
        held.predict.submit(row(9))
    held.gate.open()
    concurrent.futures.wait([*futures, *more], HANG)
    assert held.gate.seen == [MARK, 4, 3, 1, 7, 8]
    assert_all_resolved(held)
    assert (held.predict.stats()["cancelled"], held.predict.stats()["rejected"]) == (2, 2)


def test_cancelled_tasks_never_run_and_free_their_places(hold: Any) -> None:
    held = hold(queue_size=3, overflow="reject")
    held.hold()

    async def main() -> None:
        tasks = [asyncio.ensure_future(held.predict.acall(row(n))) for n in range(1, 4)]
        await turns()
        for task in tasks[:2]:
            task.cancel()
        await asyncio.gather(*tasks[:2], return_exceptions=True)
        assert all(task.cancelled() for task in tasks[:2])
        tasks += [asyncio.ensure_future(held.predict.acall(row(n))) for n in (4, 5)]
        await turns()
        with pytest.raises(torchpool.QueueFull):
            await held.predict.acall(row(6))
        held.gate.open()
        await asyncio.gather(*tasks[2:])

    run(main())
    assert held.gate.seen == [MARK, 3, 4, 5]
    assert_all_resolved(held)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_closed_map_never_runs_and_frees_its_places(hold: Any, ordered: bool) -> None:
    held = hold(queue_size=6, overflow="reject")
    held.hold()
    results = held.predict.options(priority=2).map(map(row, range(1, 100)), buffersize=6, ordered=ordered)
    with pytest.raises(torchpool.QueueFull):
        held.predict.submit(row(100))
    results.close()
    kept = [held.predict.submit(row(n)) for n in range(200, 206)]
    held.gate.open()
    concurrent.futures.wait(kept, HANG)
    assert held.gate.seen == [MARK, *range(200, 206)]
    assert_all_resolved(held)


def test_a_closed_amap_never_runs_and_frees_its_places(hold: Any) -> None:
    held = hold(queue_size=2, overflow="reject")
    held.hold()

    async def main() -> None:
        results = held.predict.amap(map(row, range(1, 100)), buffersize=7)  # five of them in line
        first = asyncio.ensure_future(anext(results))
        await turns()
        assert held.predict.stats()["waiting_rows"] == 2
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await results.aclose()
        kept = [asyncio.ensure_future(held.predict.acall(row(n))) for n in (200, 201)]
        await turns()
        held.gate.open()
        await asyncio.gather(*kept)

    run(main())
    assert held.gate.seen == [MARK, 200, 201]
    assert_all_resolved(held)


@pytest.mark.parametrize("way", ["call", "submit", "acall"])
def test_a_full_queue_rejects_whatever_the_priority(hold: Any, way: str) -> None:
    held = hold(queue_size=2, overflow="reject")
    held.hold()
    waiting = [held.predict.submit(row(n)) for n in (1, 2)]
    for view in (held.predict, held.predict.options(priority=100), held.predict.options(deadline=HANG)):
        with pytest.raises(torchpool.QueueFull, match="the queue is full: 2 rows wait"):
            WAYS[way](view, 1000)
    held.gate.open()
    concurrent.futures.wait(waiting, HANG)
    assert held.gate.seen == [MARK, 1, 2]
    assert held.predict.stats()["rejected"] == 3
    assert_all_resolved(held)


@pytest.mark.parametrize("priority", [0, 9], ids=["all alike", "the last urgent"])
def test_blocked_producers_are_admitted_in_order(hold: Any, priority: int) -> None:
    """Whatever their priority: it counts in the queue."""
    held = hold(queue_size=1, max_batch=1)
    held.hold()
    first = held.predict.submit(row(1))
    admitted: list[int] = []

    async def main() -> None:
        async def call(n: int) -> None:
            view = held.predict.options(priority=priority if n == 9 else 0)
            await view.acall(row(n))
            admitted.append(n)

        tasks = []
        for n in range(2, 10):  # one after the other, so that their order is known
            tasks.append(asyncio.ensure_future(call(n)))
            await turns(2)
        held.gate.open()
        await asyncio.gather(*tasks)

    run(main())
    first.result(HANG)
    assert held.gate.seen == [MARK, *range(1, 10)]
    assert admitted == list(range(2, 10))


def test_blocked_threads_and_tasks_stand_in_one_line(hold: Any, threads: Any) -> None:
    held = hold(queue_size=1, max_batch=1)
    held.hold()
    first = held.predict.submit(row(1))

    async def main() -> list[Any]:
        tasks = [asyncio.ensure_future(held.predict.acall(row(n))) for n in range(2, 6)]
        await turns()
        # A thread that waits for room is not accepted yet; it comes after the tasks, which are.
        blocked = threads.submit(WAYS["submit"], held.predict, 6)
        held.gate.open()
        results = await asyncio.gather(*tasks)
        return [*results, await asyncio.wrap_future(blocked)]

    results = run(main())
    assert_all_close([first.result(HANG), *results], (eager(held.model.linear, row(n)) for n in range(1, 7)))
    assert held.gate.seen == [MARK, 1, 2, 3, 4, 5, 6]
    assert_all_resolved(held)


def test_many_blocked_threads_all_get_a_place(hold: Any, threads: Any) -> None:
    held = hold(queue_size=2, max_batch=2)
    held.hold()
    calls = [threads.submit(WAYS["submit" if n % 2 else "call"], held.predict, n) for n in range(40)]
    wait_accepted(held, 3)  # the queue is full
    held.gate.open()
    assert_all_close((call.result(HANG) for call in calls), (eager(held.model.linear, row(n)) for n in range(40)))
    assert sorted(held.gate.seen) == sorted([MARK, *range(40)])
    assert_all_resolved(held)


def test_tasks_that_wait_for_room_leave_the_loop_free(hold: Any) -> None:
    held = hold(queue_size=1)
    held.hold()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def main() -> list[Any]:
        ticking = asyncio.ensure_future(tick())
        tasks = [asyncio.ensure_future(held.predict.acall(row(n))) for n in range(30)]
        await turns(10)
        before = ticks
        assert not any(task.done() for task in tasks)
        await turns(50)
        assert ticks >= before + 50
        held.gate.open()  # nobody else could, were the loop blocked
        results = await asyncio.gather(*tasks)
        ticking.cancel()
        return results

    assert_all_close(run(main()), [eager(held.model.linear, row(n)) for n in range(30)])
    assert_all_resolved(held)


def test_a_task_cancelled_in_line_lets_the_next_ones_through(hold: Any) -> None:
    held = hold(queue_size=1, max_batch=1)
    held.hold()

    async def main() -> None:
        tasks = [asyncio.ensure_future(held.predict.acall(row(n))) for n in range(1, 9)]
        await turns()
        for n in (1, 3, 4, 8):
            tasks[n - 1].cancel()
        await turns()
        held.gate.open()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.cancelled() for task in tasks] == [n in (1, 3, 4, 8) for n in range(1, 9)]

    run(main())
    assert held.gate.seen == [MARK, 2, 5, 6, 7]
    assert_all_resolved(held)


@pytest.mark.parametrize("bound", [{"queue_size": 2}, {"queue_bytes": 2 * 16}], ids=["rows", "bytes"])
def test_either_bound_rejects(hold: Any, bound: dict[str, int]) -> None:
    held = hold(overflow="reject", **bound)
    held.hold()
    waiting = [held.predict.submit(row(n)) for n in (1, 2)]
    with pytest.raises(torchpool.QueueFull):
        held.predict.submit(row(3))
    assert waiting[0].cancel()
    waiting.append(held.predict.submit(row(4)))
    held.gate.open()
    concurrent.futures.wait(waiting, HANG)
    assert held.gate.seen == [MARK, 2, 4]
