"""options(): priorities."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
from typing import Any

import pytest
from executor_support import Gates, Refused, fail, hold_thread
from support import HANG, Gate

import torchpool

TORCHPOOL_ONLY = True  # the standard one has no options


@pytest.fixture
def executor(make_executor: Any) -> Any:
    return make_executor(1)


def test_the_higher_priority_starts_first(executor: Any, gate: Gate) -> None:
    order: list[int] = []
    hold_thread(executor, gate)
    futures = [executor.options(priority=priority).submit(order.append, priority) for priority in (1, -5, 3, 0, 2)]
    gate.open()
    concurrent.futures.wait(futures, HANG)
    assert order == [3, 2, 1, 0, -5]


def test_within_one_priority_the_first_starts_first(executor: Any, gate: Gate) -> None:
    order: list[tuple[int, int]] = []
    hold_thread(executor, gate)
    view = {priority: executor.options(priority=priority) for priority in (0, 1)}
    futures = [view[n % 2].submit(order.append, (n % 2, n)) for n in range(40)]
    gate.open()
    concurrent.futures.wait(futures, HANG)
    assert order == sorted(order, key=lambda item: (-item[0], item[1]))


def test_without_options_the_priority_is_zero(executor: Any, gate: Gate) -> None:
    order: list[str] = []
    hold_thread(executor, gate)
    futures = [
        executor.options(priority=-1).submit(order.append, "below"),
        executor.submit(order.append, "none"),
        executor.options().submit(order.append, "no options"),
        executor.options(priority=0).submit(order.append, "zero"),
        executor.options(priority=1).submit(order.append, "above"),
    ]
    gate.open()
    concurrent.futures.wait(futures, HANG)
    assert order == ["above", "none", "no options", "zero", "below"]


def test_any_number_of_priorities_is_kept_apart(executor: Any, gate: Gate) -> None:
    order: list[int] = []
    hold_thread(executor, gate)
    priorities = [*range(-300, 300), -(2**31), 2**31 - 1]
    random.Random(7).shuffle(priorities)
    futures = [executor.options(priority=priority).submit(order.append, priority) for priority in priorities]
    gate.open()
    concurrent.futures.wait(futures, HANG)
    assert order == sorted(priorities, reverse=True)


def test_cancelled_tasks_do_not_disturb_the_order(executor: Any, gate: Gate) -> None:
    order: list[tuple[int, int]] = []
    hold_thread(executor, gate)
    generator = random.Random(11)
    calls = [(generator.randrange(20), n) for n in range(300)]
    futures = [executor.options(priority=priority).submit(order.append, (priority, n)) for priority, n in calls]
    cancelled = set(generator.sample(range(300), 200))
    assert all(futures[n].cancel() for n in cancelled)
    gate.open()
    concurrent.futures.wait(futures, HANG)
    left = [(priority, n) for priority, n in calls if n not in cancelled]
    assert order == sorted(left, key=lambda item: (-item[0], item[1]))


def test_a_priority_does_not_interrupt_what_runs(executor: Any, gate: Gate) -> None:
    running = hold_thread(executor, gate)
    urgent = executor.options(priority=9).submit(int)
    assert running.running()
    assert not urgent.running()
    gate.open()
    assert urgent.result(HANG) == 0


def test_a_map_through_a_view_has_its_priority(executor: Any, gate: Gate) -> None:
    order: list[int] = []
    hold_thread(executor, gate)
    low = executor.map(order.append, range(3))
    high = executor.options(priority=2).map(order.append, range(10, 13))
    gate.open()
    assert list(high) == list(low) == [None] * 3
    assert order == [10, 11, 12, 0, 1, 2]


def test_a_buffered_map_through_a_view_has_its_priority(executor: Any, gate: Gate) -> None:
    order: list[int] = []
    hold_thread(executor, gate)
    low = executor.submit(order.append, 0)
    high = executor.options(priority=2).map(order.append, range(10, 13), buffersize=2)
    gate.open()
    assert list(high) == [None] * 3
    low.result(HANG)
    assert order[:2] == [10, 11]
    assert sorted(order) == [0, 10, 11, 12]


def test_a_map_through_a_view_gives_results_in_order_and_errors_in_their_place(make_executor: Any) -> None:
    results = make_executor(3).options(priority=1).map(lambda a, b: a // b, [6, 8, 1, 9], [3, 2, 0, 3])
    assert next(results) == 2
    assert next(results) == 4
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_a_map_through_a_view_has_a_timeout(executor: Any, gate: Gate) -> None:
    results = executor.options(priority=1).map(lambda _: gate.pass_through(), range(2), timeout=0.01)
    with pytest.raises(TimeoutError):
        next(results)


# --- views ------------------------------------------------------------------------------------------------------------


def test_a_view_is_an_executor(executor: Any) -> None:
    view = executor.options(priority=1)
    assert isinstance(view, concurrent.futures.Executor)
    assert view.submit(lambda *args, **kwargs: (args, kwargs), 1, self=2, fn=3).result(HANG) == (
        (1,),
        {"self": 2, "fn": 3},
    )
    assert isinstance(view.submit(fail, Refused()).exception(HANG), Refused)


def test_a_view_serves_an_event_loop(executor: Any) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        view = executor.options(priority=1, deadline=HANG)
        return await asyncio.gather(*(loop.run_in_executor(view, abs, -n) for n in range(20)))

    assert asyncio.run(main()) == list(range(20))


def test_a_view_counts_with_its_executor(executor: Any) -> None:
    executor.options(priority=1).submit(int).result(HANG)
    executor.options(deadline=HANG).submit(int).result(HANG)
    assert executor.stats()["accepted"] == 2
    assert len(executor._threads) == 1


def test_leaving_a_view_as_a_context_shuts_the_executor_down(executor: Any, gate: Gate) -> None:
    gate.open()
    with executor.options(priority=1) as view:
        futures = [view.submit(abs, -n) for n in range(30)]
    assert [future.result(0) for future in futures] == list(range(30))
    for submit in (executor.submit, view.submit):
        with pytest.raises(RuntimeError, match="after shutdown"):
            submit(int)


def test_a_view_passes_a_shutdowns_options_on(executor: Any, gate: Gate) -> None:
    running = hold_thread(executor, gate)
    view = executor.options(priority=1)
    waiting = view.submit(int)
    view.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    assert not running.done()


def test_a_view_keeps_its_executor(make_executor: Any, no_gc: None) -> None:
    view = make_executor(1).options(priority=1)
    assert view.submit(abs, -2).result(HANG) == 2


def test_a_view_of_a_broken_executor_refuses_tasks(make_executor: Any) -> None:
    executor = make_executor(1, initializer=fail, initargs=(Refused(),))
    view = executor.options(priority=1)
    with pytest.raises(concurrent.futures.BrokenExecutor):
        view.submit(int).result(HANG)
    with pytest.raises(concurrent.futures.BrokenExecutor):
        view.submit(int)


def test_views_do_not_change_each_other(executor: Any, gate: Gate) -> None:
    order: list[str] = []
    high, low = executor.options(priority=1), executor.options(priority=-1)
    hold_thread(executor, gate)
    futures = [
        low.submit(order.append, "low"),
        high.submit(order.append, "high"),
        low.submit(order.append, "low again"),
    ]
    gate.open()
    concurrent.futures.wait(futures, HANG)
    assert order == ["high", "low", "low again"]


@pytest.mark.parametrize("executor_options", [{"overlap": 3}, {"queue_size": 3}, {"initializer": int}])
def test_a_view_of_any_executor_works(make_executor: Any, executor_options: dict[str, Any]) -> None:
    view = make_executor(2, **executor_options).options(priority=1, deadline=HANG)
    assert list(view.map(abs, range(-30, 0))) == list(range(30, 0, -1))


# --- what options() takes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", ["1", 1.0, None, [1]])
def test_a_priority_must_be_an_int(executor: Any, priority: Any) -> None:
    with pytest.raises(TypeError, match="priority must be an int"):
        executor.options(priority=priority)


@pytest.mark.parametrize("priority", [2**31, -(2**31) - 1, 10**30])
def test_a_priority_must_fit_32_bits(executor: Any, priority: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        executor.options(priority=priority)


@pytest.mark.parametrize("deadline", [0, -1, -0.5, float("nan"), float("-inf")])
def test_a_deadline_must_be_positive(executor: Any, deadline: float) -> None:
    with pytest.raises(ValueError, match="deadline must be a positive number of seconds"):
        executor.options(deadline=deadline)


@pytest.mark.parametrize("deadline", ["1", [1]])
def test_a_deadline_must_be_a_number(executor: Any, deadline: Any) -> None:
    with pytest.raises(TypeError):
        executor.options(deadline=deadline)


def test_options_are_given_by_name_only(executor: Any) -> None:
    with pytest.raises(TypeError):
        executor.options(1)


def test_a_map_through_a_view_of_a_subclass_keeps_its_options(gates: Gates) -> None:
    class Plain(torchpool.ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(fn, *args, **kwargs)

    gate, order = gates(), []
    with Plain(1) as executor:
        hold_thread(executor, gate)
        low = executor.submit(order.append, "low")
        high = executor.options(priority=1).map(order.append, ["high"])
        gate.open()
        assert list(high) == [low.result(HANG)] == [None]
    assert order == ["high", "low"]
