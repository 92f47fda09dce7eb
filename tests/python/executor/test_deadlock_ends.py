"""Tasks that wait for tasks of the same executor: other kinds of waits, recursion, and the executor's end."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

from executor_support import Gates, run_program, wait_until
from support import HANG, Gate, assert_clean

import torchpool

TORCHPOOL_ONLY = True  # with the standard one these hang


def inline(executor: Any) -> int:
    return executor.stats()["ran_inline"]


def test_with_a_timeout_it_waits_as_the_standard_does(make_executor: Any) -> None:
    executor = make_executor(1)
    inner: list[Any] = []

    def outer() -> None:
        inner.append(executor.submit(abs, -3))
        inner[0].result(0.01)

    assert isinstance(executor.submit(outer).exception(HANG), TimeoutError)
    assert inner[0].result(HANG) == 3
    assert inline(executor) == 0


def test_a_task_of_another_executor_is_waited_for(make_executor: Any) -> None:
    one, two = make_executor(1), make_executor(1)
    mine, inner = one.submit(
        lambda: (threading.current_thread(), two.submit(threading.current_thread).result())
    ).result(HANG)
    assert mine is not inner
    assert inline(one) == inline(two) == 0


def test_two_executors_may_wait_for_each_others_tasks(make_executor: Any) -> None:
    one, two = make_executor(2), make_executor(2)
    future = one.submit(lambda: two.submit(lambda: one.submit(abs, -3).result()).result())
    assert future.result(HANG) == 3


def test_a_future_that_others_have_looked_into_runs_inline(make_executor: Any) -> None:
    executor = make_executor(1)

    def outer() -> Any:
        future = executor.submit(abs, -3)
        assert "_condition" in future.__dict__
        return future.result()

    assert executor.submit(outer).result(HANG) == 3
    assert inline(executor) == 1


def test_a_future_whose_lock_another_thread_holds_runs_when_it_is_free(make_executor: Any, gates: Gates) -> None:
    executor, gate, waiting = make_executor(1), gates(), gates()
    inner: list[Any] = []

    def outer() -> Any:
        inner.append(executor.submit(abs, -3))
        waiting.pass_through()
        return inner[0].result()

    future = executor.submit(outer)
    waiting.wait_entered()

    def look() -> None:
        with inner[0]._condition:
            waiting.open()
            gate.pass_through()

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    gate.wait_entered()
    gate.open()
    looking.join(HANG)
    assert future.result(HANG) == 3


def test_callbacks_of_a_task_that_ran_inline_are_called(make_executor: Any) -> None:
    executor = make_executor(1)
    called: list[Any] = []

    def outer() -> Any:
        future = executor.submit(abs, -3)
        future.add_done_callback(lambda done: called.append(done.result()))
        return future.result()

    executor.submit(outer).result(HANG)
    assert called == [3]


def test_whoever_else_waits_for_a_task_that_ran_inline_is_woken(make_executor: Any, gates: Gates) -> None:
    executor, gate = make_executor(1), gates()
    inner: list[Any] = []

    def outer() -> Any:
        inner.append(executor.submit(abs, -3))
        gate.pass_through()
        return inner[0].result()

    future = executor.submit(outer)
    gate.wait_entered()
    waiting = [threading.Thread(target=inner[0].result, args=(HANG,)) for _ in range(3)]
    for thread in waiting:
        thread.start()
    gate.open()
    for thread in waiting:
        thread.join(HANG)
        assert not thread.is_alive()
    assert future.result(HANG) == 3


def test_endless_recursion_is_a_recursion_error(make_executor: Any) -> None:
    executor = make_executor(1)

    def endless() -> Any:
        return executor.submit(endless).result()

    assert isinstance(executor.submit(endless).exception(HANG), RecursionError)
    executor.shutdown(wait=False, cancel_futures=True)


def test_endless_recursion_leaves_the_executor_at_work() -> None:
    program = """
executor = ThreadPoolExecutor(1)
def endless(n):
    return executor.submit(endless, n + 1).result()
print(type(executor.submit(endless, 0).exception(HANG)).__name__)
print(executor.submit(abs, -3).result(HANG))
"""
    done = run_program(torchpool.ThreadPoolExecutor, program)
    assert_clean(done)
    assert done.stdout == "RecursionError\n3\n"


def test_shutdown_waits_for_tasks_that_run_inline(make_executor: Any, gates: Gates) -> None:
    executor, gate = make_executor(1), gates()
    future = executor.submit(lambda: executor.submit(lambda: gate.pass_through() or 3).result())
    gate.wait_entered()
    executor.shutdown(wait=False)
    gate.open()
    assert future.result(HANG) == 3


def test_what_is_waited_for_runs_inline_after_a_shutdown(make_executor: Any, gates: Gates) -> None:
    executor, gate = make_executor(1), gates()

    def outer() -> Any:
        inner = executor.submit(abs, -3)
        gate.pass_through()
        return inner.result()

    future = executor.submit(outer)
    gate.wait_entered()
    executor.shutdown(wait=False)
    gate.open()
    assert future.result(HANG) == 3


def test_a_shutdown_that_cancels_ends_a_wait_in_a_task(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(2)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    inner: list[Any] = []

    def outer() -> Any:
        inner.append(executor.submit(int))
        return inner[0].result()

    future = executor.submit(outer)
    wait_until(lambda: inner)
    executor.shutdown(wait=False, cancel_futures=True)
    assert isinstance(future.exception(HANG), concurrent.futures.CancelledError)


def test_after_a_shrink_the_last_thread_does_what_others_wait_for(make_executor: Any, gates: Gates) -> None:
    executor, gate = make_executor(3), gates()
    all_here = threading.Barrier(3)

    def outer() -> Any:
        all_here.wait(HANG)
        gate.pass_through()
        return executor.submit(abs, -3).result()

    futures = [executor.submit(outer) for _ in range(3)]
    gate.wait_entered(3)
    executor.resize(1)
    gate.open()
    assert [future.result(HANG) for future in futures] == [3, 3, 3]
    wait_until(lambda: len(executor._threads) == 1)


def test_a_tree_of_tasks_on_few_threads_ends(make_executor: Any) -> None:
    executor = make_executor(3)

    def fibonacci(n: int) -> int:
        if n < 2:
            return n
        one, two = executor.submit(fibonacci, n - 1), executor.submit(fibonacci, n - 2)
        return one.result() + two.result()

    assert executor.submit(fibonacci, 13).result(HANG) == 233


def test_after_a_deadlock_was_averted_all_threads_work_on(make_executor: Any) -> None:
    executor = make_executor(2)
    for _ in range(10):
        both = threading.Barrier(2)

        def outer(n: int, both: threading.Barrier = both) -> int:
            both.wait(HANG)
            return executor.submit(abs, -n).result()

        assert [future.result(HANG) for future in [executor.submit(outer, n) for n in (1, 2)]] == [1, 2]
    together = threading.Barrier(2)
    assert sorted(future.result(HANG) for future in [executor.submit(together.wait, HANG) for _ in range(2)]) == [0, 1]
