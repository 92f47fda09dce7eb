"""Tasks that wait for tasks of the same executor: where nobody else could, they run them themselves."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import pytest
from executor_support import Gates, Refused, fail, wait_until
from support import HANG, Gate

TORCHPOOL_ONLY = True  # with the standard one these hang


def inline(executor: Any) -> int:
    return executor.stats()["ran_inline"]


def test_a_task_may_wait_for_one_that_it_submits(make_executor: Any) -> None:
    executor = make_executor(1)
    assert executor.submit(lambda: executor.submit(abs, -3).result()).result(HANG) == 3
    assert inline(executor) == 1


def test_it_runs_on_the_thread_that_waits(make_executor: Any) -> None:
    executor = make_executor(1)
    outer = lambda: (threading.current_thread(), executor.submit(threading.current_thread).result())  # noqa: E731
    mine, inner = executor.submit(outer).result(HANG)
    assert mine is inner


def test_it_holds_several_levels_deep(make_executor: Any) -> None:
    executor = make_executor(1)

    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + executor.submit(depth, n - 1).result()

    assert executor.submit(depth, 30).result(HANG) == 30
    assert inline(executor) == 30
    assert len(executor._threads) == 1


def test_exception_waits_in_the_same_way(make_executor: Any) -> None:
    executor = make_executor(1)
    error = executor.submit(lambda: executor.submit(fail, Refused()).exception()).result(HANG)
    assert isinstance(error, Refused)
    assert inline(executor) == 1


def test_an_error_of_the_inner_task_is_raised_in_the_outer_one(make_executor: Any) -> None:
    executor = make_executor(1)
    future = executor.submit(lambda: executor.submit(fail, Refused()).result())
    assert isinstance(future.exception(HANG), Refused)
    stats = executor.stats()
    assert (stats["failed"], stats["succeeded"], stats["resolved"]) == (2, 0, 2)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_an_inner_task_may_raise_anything(make_executor: Any, error: BaseException) -> None:
    executor = make_executor(1)
    assert executor.submit(lambda: executor.submit(fail, error).exception()).result(HANG) is error


def test_only_what_is_waited_for_runs_inline(make_executor: Any) -> None:
    executor = make_executor(1)
    order: list[str] = []

    def outer() -> None:
        executor.submit(order.append, "not waited for")
        executor.submit(order.append, "waited for").result()
        order.append("outer")

    executor.submit(outer).result(HANG)
    executor.submit(int).result(HANG)
    assert order == ["waited for", "outer", "not waited for"]


def test_many_inner_tasks_run_one_after_the_other(make_executor: Any) -> None:
    executor = make_executor(1)

    def outer() -> int:
        futures = [executor.submit(abs, -n) for n in range(200)]
        return sum(future.result() for future in reversed(futures))

    assert executor.submit(outer).result(HANG) == sum(range(200))
    assert inline(executor) == 200


def test_a_map_inside_a_task_gives_its_results(make_executor: Any) -> None:
    executor = make_executor(1)
    assert executor.submit(lambda: list(executor.map(abs, range(-5, 0)))).result(HANG) == [5, 4, 3, 2, 1]


def test_a_buffered_map_inside_a_task_gives_its_results(make_executor: Any) -> None:
    executor = make_executor(1)
    assert executor.submit(lambda: list(executor.map(abs, range(-9, 0), buffersize=2))).result(HANG) == [
        *range(9, 0, -1)
    ]


def test_maps_inside_maps_give_their_results(make_executor: Any) -> None:
    executor = make_executor(2)

    def outer(n: int) -> int:
        return sum(executor.map(inner, range(n)))

    def inner(n: int) -> int:
        return sum(executor.map(abs, range(-n, 0)))

    expected = [sum(sum(range(m + 1)) for m in range(n)) for n in range(8)]
    assert list(executor.map(outer, range(8))) == expected


def test_two_tasks_may_each_wait_for_one_that_waits(make_executor: Any) -> None:
    executor = make_executor(2)
    both = threading.Barrier(2)

    def outer(n: int) -> int:
        both.wait(HANG)
        return executor.submit(abs, -n).result()

    futures = [executor.submit(outer, n) for n in (1, 2)]
    assert [future.result(HANG) for future in futures] == [1, 2]
    assert len(executor._threads) == 2


def test_all_threads_may_wait_for_the_same_task(make_executor: Any) -> None:
    executor = make_executor(3)
    all_here = threading.Barrier(4)
    shared: list[Any] = []

    def outer() -> Any:
        all_here.wait(HANG)
        all_here.wait(HANG)
        return shared[0].result()

    futures = [executor.submit(outer) for _ in range(3)]
    all_here.wait(HANG)
    ran: list[int] = []
    shared.append(executor.submit(lambda: ran.append(1) or "once"))
    all_here.wait(HANG)
    assert [future.result(HANG) for future in futures] == ["once"] * 3
    assert ran == [1]


def test_one_may_wait_for_a_running_task_that_waits_for_a_waiting_one(make_executor: Any, gates: Gates) -> None:
    executor, gate = make_executor(2), gates()
    tasks: dict[str, Any] = {}

    def middle() -> int:
        gate.pass_through()
        return 1 + tasks["last"].result()

    tasks["middle"] = executor.submit(middle)
    gate.wait_entered()
    first = executor.submit(lambda: 1 + tasks["middle"].result())
    wait_until(lambda: first.running())
    tasks["last"] = executor.submit(int)
    gate.open()
    assert first.result(HANG) == 2


def test_while_another_thread_is_busy_it_is_waited_for(make_executor: Any, gates: Gates) -> None:
    executor, gate, waiting = make_executor(2), gates(), gates()

    def outer() -> Any:
        future = executor.submit(threading.current_thread)
        waiting.open()
        waiting.pass_through()
        return threading.current_thread(), future.result()

    busy = executor.submit(lambda: gate.pass_through() or threading.current_thread())
    gate.wait_entered()
    future = executor.submit(outer)
    waiting.wait_entered()
    gate.open()
    mine, inner = future.result(HANG)
    assert inner is busy.result(HANG)
    assert mine is not inner
    assert inline(executor) == 0


def test_a_thread_more_is_better_than_running_inline(make_executor: Any) -> None:
    executor = make_executor(2)
    outer = lambda: (threading.current_thread(), executor.submit(threading.current_thread).result())  # noqa: E731
    mine, inner = executor.submit(outer).result(HANG)
    assert mine is not inner
    assert inline(executor) == 0


def test_a_task_submitted_before_runs_inline_too(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    later: list[Any] = []

    def outer() -> Any:
        gate.pass_through()
        return later[0].result()

    future = executor.submit(outer)
    gate.wait_entered()
    later.append(executor.submit(abs, -3))
    gate.open()
    assert future.result(HANG) == 3
    assert inline(executor) == 1


def test_what_has_a_low_priority_runs_inline_when_it_is_waited_for(make_executor: Any) -> None:
    executor = make_executor(1)
    order: list[str] = []

    def outer() -> None:
        executor.options(priority=5).submit(order.append, "high")
        executor.options(priority=-5).submit(order.append, "low").result()

    executor.submit(outer).result(HANG)
    executor.submit(int).result(HANG)
    assert order == ["low", "high"]


def test_what_has_expired_meanwhile_raises(make_executor: Any) -> None:
    executor = make_executor(1)

    def outer() -> Any:
        future = executor.options(deadline=0.01).submit(int)
        wait_until(future.done)
        return future.exception()

    assert isinstance(executor.submit(outer).result(HANG), TimeoutError)
    assert inline(executor) == 0


def test_what_was_cancelled_raises(make_executor: Any) -> None:
    executor = make_executor(1)

    def outer() -> Any:
        future = executor.submit(int)
        future.cancel()
        return future.result()

    assert isinstance(executor.submit(outer).exception(HANG), concurrent.futures.CancelledError)


def test_a_waiting_task_that_is_cancelled_by_another_thread_ends_the_wait(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(2)
    held = executor.submit(gate.pass_through)
    gate.wait_entered()
    inner: list[Any] = []

    def outer() -> Any:
        inner.append(executor.submit(int))
        return inner[0].result()

    future = executor.submit(outer)
    wait_until(lambda: inner)
    assert inner[0].cancel()
    assert isinstance(future.exception(HANG), concurrent.futures.CancelledError)
    assert held.running()
