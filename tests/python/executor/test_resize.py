"""resize(): more threads at once, fewer as tasks end."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from executor_support import Gates, Started, blocked, hold_threads, join, wait_until
from support import HANG, Gate

TORCHPOOL_ONLY = True  # the standard one cannot be resized


def threads(executor: Any) -> int:
    return len(executor._threads)


# --- growing ----------------------------------------------------------------------------------------------------------


def test_tasks_that_wait_start_when_there_may_be_more_threads(make_executor: Any, gates: Gates) -> None:
    executor, first, second = make_executor(1), gates(), gates()
    hold_threads(executor, first, 1)
    waiting = [executor.submit(second.pass_through) for _ in range(3)]
    executor.resize(4)
    second.wait_entered(3)
    assert threads(executor) == 4
    second.open()
    assert [future.result(HANG) for future in waiting] == [None] * 3


def test_no_more_tasks_start_than_the_new_number_allows(make_executor: Any, gates: Gates) -> None:
    executor, first, second = make_executor(1), gates(), gates()
    hold_threads(executor, first, 1)
    waiting = [executor.submit(second.pass_through) for _ in range(5)]
    executor.resize(3)
    second.wait_entered(2)
    assert [future.running() for future in waiting] == [True] * 2 + [False] * 3
    assert executor.stats()["waiting"] == 3


def test_growing_starts_no_more_threads_than_tasks_wait(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, initializer=gate.pass_through)  # threads that take their time before they take a task
    futures = [executor.submit(int) for _ in range(2)]
    executor.resize(10)
    assert threads(executor) == 2
    gate.open()
    assert [future.result(HANG) for future in futures] == [0, 0]


def test_growing_without_tasks_starts_no_thread(make_executor: Any) -> None:
    executor = make_executor(1)
    executor.resize(5)
    assert threads(executor) == 0
    assert executor._max_workers == 5


def test_growing_an_idle_executor_lets_more_run_from_then_on(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.submit(int).result(HANG)
    executor.resize(3)
    hold_threads(executor, gate, 3)
    assert threads(executor) == 3


def test_the_longest_waiting_start_first_when_it_grows(make_executor: Any, gates: Gates) -> None:
    executor, first, second = make_executor(1), gates(), gates()
    hold_threads(executor, first, 1)
    order: list[int] = []

    def task(number: int) -> None:
        order.append(number)
        second.pass_through()

    waiting = [executor.submit(task, number) for number in range(4)]
    for count in (2, 3):
        executor.resize(count)
        second.wait_entered()
    assert order == [0, 1]
    assert [future.running() for future in waiting] == [True, True, False, False]


# --- shrinking --------------------------------------------------------------------------------------------------------


def test_idle_threads_leave_at_once_when_it_shrinks(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(4)
    futures = hold_threads(executor, gate, 4)
    gate.open()
    [future.result(HANG) for future in futures]
    all_threads = list(executor._threads)
    executor.resize(1)
    wait_until(lambda: threads(executor) == 1)
    left = [thread for thread in all_threads if thread not in executor._threads]
    join(left)
    assert len(left) == 3
    assert executor.stats()["threads"] == 1


def test_running_tasks_end_in_peace_when_it_shrinks(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(3)
    futures = hold_threads(executor, gate, 3)
    executor.resize(1)
    assert threads(executor) == 3
    assert [future.running() for future in futures] == [True] * 3
    gate.open()
    assert [future.result(HANG) for future in futures] == [None] * 3
    wait_until(lambda: threads(executor) == 1)


def test_no_task_starts_before_enough_have_ended_after_a_shrink(make_executor: Any, gates: Gates) -> None:
    executor, own = make_executor(3), [gates() for _ in range(3)]
    running = [executor.submit(gate.pass_through) for gate in own]
    for gate in own:
        gate.wait_entered()
    waiting = executor.submit(threading.current_thread)
    executor.resize(1)
    for gate in own[:2]:
        gate.open()
    wait_until(lambda: threads(executor) == 1)
    assert not waiting.running()
    assert not waiting.done()
    own[2].open()
    assert waiting.result(HANG) in executor._threads
    [future.result(HANG) for future in running]


def test_what_waits_is_done_after_a_shrink(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(4)
    hold_threads(executor, gate, 4)
    futures = [executor.submit(abs, -n) for n in range(50)]
    executor.resize(1)
    gate.open()
    assert [future.result(HANG) for future in futures] == list(range(50))


def test_after_a_shrink_tasks_run_one_after_the_other(make_executor: Any) -> None:
    executor = make_executor(4)
    together = threading.Barrier(4)
    for future in [executor.submit(together.wait, HANG) for _ in range(4)]:
        future.result(HANG)
    executor.resize(1)
    alone = threading.Lock()

    def task() -> bool:
        if not alone.acquire(blocking=False):
            return False
        threading.Event().wait(0.001)
        alone.release()
        return True

    assert all(future.result(HANG) for future in [executor.submit(task) for _ in range(20)])


def test_names_are_never_given_again(make_executor: Any) -> None:
    executor = make_executor(1, thread_name_prefix="pool")
    seen: set[str] = set()
    for _ in range(5):
        executor.resize(3)
        together = threading.Barrier(3)

        def task(together: threading.Barrier = together) -> str:
            together.wait(HANG)
            return threading.current_thread().name

        names = {future.result(HANG) for future in [executor.submit(task) for _ in range(3)]}
        assert len(names) == 3
        seen |= names
        executor.resize(1)
        wait_until(lambda: threads(executor) == 1)
    assert seen == {f"pool_{number}" for number in range(3 + 4 * 2)}


def test_up_and_down_under_load_loses_nothing(make_executor: Any) -> None:
    executor = make_executor(2)
    futures = []
    for turn in range(200):
        futures += [executor.submit(abs, -turn) for _ in range(10)]
        executor.resize(1 + turn % 5)
    assert [future.result(HANG) for future in futures] == [turn for turn in range(200) for _ in range(10)]
    executor.resize(2)
    wait_until(lambda: threads(executor) <= 2)


# --- at odd moments ---------------------------------------------------------------------------------------------------


def test_a_task_may_make_it_grow(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)

    def task() -> None:
        other = executor.submit(gate.pass_through)
        executor.resize(2)
        gate.wait_entered()
        gate.open()
        other.result(HANG)

    assert executor.submit(task).result(HANG) is None
    assert executor.stats()["ran_inline"] == 0


def test_a_task_may_make_it_shrink(make_executor: Any) -> None:
    executor = make_executor(3)
    together = threading.Barrier(3)

    def task() -> None:
        together.wait(HANG)
        executor.resize(1)

    for future in [executor.submit(task) for _ in range(3)]:
        future.result(HANG)
    wait_until(lambda: threads(executor) == 1)
    assert executor.submit(abs, -3).result(HANG) == 3


def test_it_may_grow_while_a_shutdown_waits(make_executor: Any, gates: Gates) -> None:
    executor, first, second = make_executor(1), gates(), gates()
    hold_threads(executor, first, 1)
    waiting = [executor.submit(second.pass_through) for _ in range(2)]
    ending = blocked(executor.shutdown)
    executor.resize(3)
    second.wait_entered(2)
    first.open()
    second.open()
    ending.value()
    assert [future.done() for future in waiting] == [True] * 2
    assert not any(thread.is_alive() for thread in executor._threads)


def test_it_may_shrink_while_a_shutdown_waits(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(3)
    hold_threads(executor, gate, 3)
    waiting = [executor.submit(abs, -n) for n in range(20)]
    ending = blocked(executor.shutdown)
    executor.resize(1)
    gate.open()
    ending.value()
    assert [future.result(0) for future in waiting] == list(range(20))


def test_it_may_be_resized_after_its_end(make_executor: Any) -> None:
    executor = make_executor(2)
    executor.submit(int).result(HANG)
    executor.shutdown()
    executor.resize(5)
    executor.resize(1)
    assert executor._max_workers == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)


def test_shutdown_waits_for_threads_that_leave(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(3)
    hold_threads(executor, gate, 3)
    everyone = list(executor._threads)
    executor.resize(1)
    ending = blocked(executor.shutdown)
    gate.open()
    ending.value()
    join(everyone)


def test_two_may_resize_at_once(make_executor: Any) -> None:
    executor = make_executor(2)

    def resize() -> None:
        for turn in range(300):
            executor.resize(1 + turn % 4)

    resizing = [Started(resize) for _ in range(2)]
    futures = [executor.submit(abs, -n) for n in range(2000)]
    for started in resizing:
        started.value()
    assert [future.result(HANG) for future in futures] == list(range(2000))
    executor.resize(1)
    wait_until(lambda: threads(executor) <= 1)


# --- what it takes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", None])
def test_the_number_must_be_a_positive_int(make_executor: Any, count: Any) -> None:
    executor = make_executor(2)
    with pytest.raises(ValueError, match="max_workers must be an int greater than 0"):
        executor.resize(count)
    assert executor._max_workers == 2


def test_it_returns_nothing_and_shows_in_everything(make_executor: Any) -> None:
    executor = make_executor(2)
    assert executor.resize(7) is None
    assert executor._max_workers == executor.stats()["max_workers"] == 7
    assert repr(executor).endswith("max_workers=7>")


def test_an_initializer_runs_on_the_threads_that_come_later(make_executor: Any, gate: Gate) -> None:
    seen: set[threading.Thread] = set()
    executor = make_executor(1, initializer=lambda: seen.add(threading.current_thread()))
    executor.submit(int).result(HANG)
    executor.resize(3)
    hold_threads(executor, gate, 3)
    assert seen == executor._threads
