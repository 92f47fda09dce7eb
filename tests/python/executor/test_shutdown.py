"""shutdown(), the context manager, and executors that are dropped."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from executor_support import Refused, blocked, fail, join, wait_until
from support import HANG, Gate, run_threads

REFUSAL = r"^cannot schedule new futures after shutdown$"


def held(executor: Any, gate: Gate) -> Any:
    """A task that occupies one thread until the gate is opened."""
    future = executor.submit(gate.pass_through)
    gate.wait_entered()
    return future


def test_shutdown_waits_for_what_was_submitted(make_executor: Any) -> None:
    executor = make_executor(2)
    futures = [executor.submit(int) for _ in range(200)]
    executor.shutdown()
    assert all(future.done() for future in futures)


def test_shutdown_waits_for_the_task_that_runs(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    future = held(executor, gate)
    waiting = blocked(executor.shutdown)
    assert waiting.thread.is_alive()
    gate.open()
    waiting.value()
    assert future.done()


def test_after_a_shutdown_that_waits_no_thread_is_left(make_executor: Any) -> None:
    executor = make_executor(3)
    together = threading.Barrier(3)
    for _ in range(3):
        executor.submit(together.wait, HANG)
    threads = list(executor._threads)
    executor.shutdown()
    assert [thread.is_alive() for thread in threads] == [False] * 3


@pytest.mark.parametrize("way", ["by name", "by position"])
def test_shutdown_without_waiting_returns_while_tasks_run_and_wait(make_executor: Any, gate: Gate, way: str) -> None:
    executor = make_executor(1)
    running, waiting = held(executor, gate), executor.submit(int, "7")
    _ = executor.shutdown(wait=False) if way == "by name" else executor.shutdown(False)
    assert not running.done()
    gate.open()
    assert waiting.result(HANG) == 7


def test_threads_end_after_a_shutdown_that_does_not_wait(make_executor: Any) -> None:
    executor = make_executor(2)
    executor.submit(int).result(HANG)
    threads = list(executor._threads)
    executor.shutdown(wait=False)
    join(threads)


def test_shutdown_of_an_executor_that_was_never_used_returns(make_executor: Any) -> None:
    executor = make_executor(2)
    executor.shutdown()
    assert executor._shutdown


def test_shutdown_returns_nothing(make_executor: Any) -> None:
    assert make_executor(1).shutdown() is None


def test_cancelling_is_asked_for_by_name_only(make_executor: Any) -> None:
    with pytest.raises(TypeError):
        make_executor(1).shutdown(True, True)


def test_shutdown_may_cancel_what_waits(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    running = held(executor, gate)
    waiting = [executor.submit(int) for _ in range(5)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert [future.cancelled() for future in waiting] == [True] * 5
    assert not running.cancelled()
    gate.open()
    assert running.result(HANG) is None


def test_tasks_that_a_shutdown_cancels_never_run(make_executor: Any, gate: Gate) -> None:
    executor, ran = make_executor(1), []
    held(executor, gate)
    for n in range(5):
        executor.submit(ran.append, n)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    executor.shutdown()
    assert ran == []


def test_shutdown_may_cancel_and_wait(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    running, pending = held(executor, gate), executor.submit(int)
    waiting = blocked(lambda: executor.shutdown(wait=True, cancel_futures=True))
    gate.open()
    waiting.value()
    assert running.done()
    assert pending.cancelled()


def test_a_second_shutdown_may_cancel_what_the_first_left(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    held(executor, gate)
    pending = executor.submit(int)
    executor.shutdown(wait=False)
    assert not pending.cancelled()
    executor.shutdown(wait=False, cancel_futures=True)
    assert pending.cancelled()


@pytest.mark.parametrize("wait", [True, False])
def test_submit_after_a_shutdown_raises(make_executor: Any, wait: bool) -> None:
    executor = make_executor(1)
    executor.submit(int)
    executor.shutdown(wait=wait)
    with pytest.raises(RuntimeError, match=REFUSAL):
        executor.submit(int)


def test_submit_in_a_task_after_a_shutdown_raises(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    future = executor.submit(lambda: gate.pass_through() or executor.submit(int))
    gate.wait_entered()
    executor.shutdown(wait=False)
    gate.open()
    with pytest.raises(RuntimeError, match=REFUSAL):
        future.result(HANG)


def test_shutdown_may_be_called_again(make_executor: Any) -> None:
    executor = make_executor(1)
    future = executor.submit(int)
    for _ in range(3):
        executor.shutdown()
    assert future.done()


def test_shutdown_may_wait_after_one_that_did_not(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    future = held(executor, gate)
    executor.shutdown(wait=False)
    waiting = blocked(executor.shutdown)
    gate.open()
    waiting.value()
    assert future.done()


def test_shutdown_from_many_threads_returns_in_each(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(2)
    future = held(executor, gate)
    waiting = [blocked(executor.shutdown) for _ in range(4)]
    gate.open()
    for one in waiting:
        one.value()
    assert future.done()


def test_the_flag_tells_of_the_shutdown(make_executor: Any) -> None:
    executor = make_executor(1)
    assert not executor._shutdown
    executor.shutdown(wait=False)
    assert executor._shutdown


def test_a_task_may_shut_its_executor_down_without_waiting(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    future = executor.submit(lambda: gate.pass_through() or executor.shutdown(wait=False))
    later = executor.submit(int, "7")
    threads = list(executor._threads)
    gate.open()
    assert future.result(HANG) is None
    assert later.result(HANG) == 7
    join(threads)


def test_a_task_may_cancel_what_waits_behind_it(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    future = executor.submit(lambda: gate.pass_through() or executor.shutdown(wait=False, cancel_futures=True))
    later = executor.submit(int)
    gate.open()
    future.result(HANG)
    assert later.cancelled()


def test_submits_during_a_shutdown_run_or_raise(make_executor: Any) -> None:
    executor, ran = make_executor(2), []

    def submit(number: int) -> list[Any]:
        futures: list[Any] = []
        if number == 0:
            wait_until(lambda: len(ran) > 100)
            executor.shutdown()
            return futures
        with pytest.raises(RuntimeError, match=REFUSAL):
            while True:
                futures.append(executor.submit(ran.append, number))
        return futures

    futures = [future for lot in run_threads(4, submit) for future in lot]
    assert [future.result(0) for future in futures] == [None] * len(ran)


# --- the context manager ----------------------------------------------------------------------------------------------


def test_entering_gives_the_executor(make_executor: Any) -> None:
    executor = make_executor(1)
    with executor as entered:
        assert entered is executor


def test_leaving_waits(make_executor: Any) -> None:
    with make_executor(2) as executor:
        futures = [executor.submit(int) for _ in range(100)]
        threads = list(executor._threads)
    assert all(future.done() for future in futures)
    assert not any(thread.is_alive() for thread in threads)


def test_leaving_shuts_down(make_executor: Any) -> None:
    with make_executor(1) as executor:
        pass
    with pytest.raises(RuntimeError, match=REFUSAL):
        executor.submit(int)


def test_an_error_in_the_body_goes_on_after_the_work_is_done(make_executor: Any) -> None:
    futures: list[Any] = []
    with pytest.raises(Refused), make_executor(1) as executor:
        futures += [executor.submit(int) for _ in range(100)]
        raise Refused
    assert all(future.done() for future in futures)


def test_an_error_of_a_task_does_not_leave_the_context(make_executor: Any) -> None:
    with make_executor(1) as executor:
        future = executor.submit(fail, Refused())
    assert isinstance(future.exception(), Refused)


def test_leaving_uses_the_shutdown_of_a_subclass(executor_class: Any) -> None:
    calls: list[bool] = []

    class Watched(executor_class):  # type: ignore[misc]
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            calls.append(wait)
            super().shutdown(wait, cancel_futures=cancel_futures)

    with Watched(1):
        pass
    assert calls == [True]


# --- dropped executors ------------------------------------------------------------------------------------------------


def test_idle_threads_of_a_dropped_executor_end(make_executor: Any) -> None:
    executor = make_executor(3)
    together = threading.Barrier(3)
    for future in [executor.submit(together.wait, HANG) for _ in range(3)]:
        future.result(HANG)
    threads = list(executor._threads)
    del executor
    join(threads)
    assert len(threads) == 3


def test_what_waits_in_a_dropped_executor_runs(make_executor: Any, gate: Gate) -> None:
    executor, ran = make_executor(1), []
    held(executor, gate)
    futures = [executor.submit(ran.append, n) for n in range(5)]
    threads = list(executor._threads)
    del executor
    gate.open()
    for future in futures:
        future.result(HANG)
    assert ran == list(range(5))
    join(threads)


def test_what_nobody_refers_to_any_more_runs(make_executor: Any, gate: Gate) -> None:
    executor, last = make_executor(1), threading.Event()
    held(executor, gate)
    executor.submit(last.set)
    del executor
    gate.open()
    assert last.wait(HANG)


def test_threads_end_when_the_collector_takes_the_executor(make_executor: Any) -> None:
    executor = make_executor(2)
    executor.own = executor
    executor.submit(int).result(HANG)
    threads = list(executor._threads)
    del executor
    gc.collect()
    join(threads)


def test_the_last_reference_may_be_dropped_by_a_task_of_the_executor(make_executor: Any, gate: Gate) -> None:
    box = [make_executor(1)]
    future = box[0].submit(lambda: gate.pass_through() or box.clear())
    threads = list(box[0]._threads)
    gate.open()
    assert future.result(HANG) is None
    join(threads)


def test_the_collector_may_take_an_executor_in_a_task_of_it(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.own = executor
    future = executor.submit(lambda: gate.pass_through() or gc.collect())
    threads = list(executor._threads)
    del executor
    gate.open()
    assert isinstance(future.result(HANG), int)
    join(threads)


def test_a_dropped_executor_with_a_failing_initializer_ends(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, initializer=lambda: gate.pass_through() or fail(Refused()))
    executor.submit(int)
    threads = list(executor._threads)
    del executor
    gate.open()
    join(threads)
