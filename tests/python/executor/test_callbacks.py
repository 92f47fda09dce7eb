"""add_done_callback(): when, where and in which order callbacks run, and what they may do."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from executor_support import Refused, Started, fail
from support import HANG, Gate


@pytest.fixture
def running(make_executor: Any, gate: Gate) -> Any:
    """A future whose task waits at the gate."""
    future = make_executor(1).submit(gate.pass_through)
    gate.wait_entered()
    return future


@pytest.fixture
def finished(make_executor: Any) -> Any:
    future = make_executor(1).submit(int)
    future.result(HANG)
    return future


def finish(future: Any, gate: Gate) -> None:
    """Returns when the callbacks that were added before have run: they run in order."""
    last = threading.Event()
    future.add_done_callback(lambda done: last.set())
    gate.open()
    assert last.wait(HANG)


def test_adding_one_returns_nothing(running: Any) -> None:
    assert running.add_done_callback(repr) is None


def test_a_callback_waits_for_the_task(running: Any, gate: Gate) -> None:
    calls: list[Any] = []
    running.add_done_callback(calls.append)
    assert calls == []
    finish(running, gate)
    assert calls == [running]


def test_callbacks_run_in_the_order_in_which_they_were_added(running: Any, gate: Gate) -> None:
    calls: list[int] = []
    for n in range(20):
        running.add_done_callback(lambda done, n=n: calls.append(n))
    finish(running, gate)
    assert calls == list(range(20))


def test_a_callback_that_is_added_twice_runs_twice(running: Any, gate: Gate) -> None:
    calls: list[Any] = []
    callback = calls.append
    running.add_done_callback(callback)
    running.add_done_callback(callback)
    finish(running, gate)
    assert calls == [running, running]


def test_a_callback_runs_on_the_thread_of_the_task(make_executor: Any, gate: Gate) -> None:
    future = make_executor(1).submit(lambda: gate.pass_through() or threading.current_thread())
    threads: list[threading.Thread] = []
    future.add_done_callback(lambda done: threads.append(threading.current_thread()))
    finish(future, gate)
    assert threads == [future.result(HANG)]


def test_a_callback_of_a_finished_future_runs_at_once_on_the_thread_that_adds_it(finished: Any) -> None:
    calls: list[tuple[Any, threading.Thread]] = []
    finished.add_done_callback(lambda done: calls.append((done, threading.current_thread())))
    assert calls == [(finished, threading.current_thread())]


def test_a_callback_sees_a_future_that_is_done(running: Any, gate: Gate) -> None:
    calls: list[Any] = []
    running.add_done_callback(lambda done: calls.append((done.done(), done.running(), done.result(0))))
    finish(running, gate)
    assert calls == [(True, False, None)]


def test_a_callback_may_ask_for_the_result_without_a_timeout(make_executor: Any, gate: Gate) -> None:
    future = make_executor(1).submit(lambda: gate.pass_through() or 7)
    calls: list[int] = []
    future.add_done_callback(lambda done: calls.append(done.result()))
    finish(future, gate)
    assert calls == [7]


def test_a_callback_sees_the_exception_of_a_task_that_failed(make_executor: Any, gate: Gate) -> None:
    error = Refused()
    future = make_executor(1).submit(lambda: gate.pass_through() or fail(error))
    calls: list[BaseException] = []
    future.add_done_callback(lambda done: calls.append(done.exception()))
    finish(future, gate)
    assert calls == [error]


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_a_callback_of_a_future_that_is_cancelled_runs_at_once_on_that_thread(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    future, calls = executor.submit(int), []
    future.add_done_callback(lambda done: calls.append((done.cancelled(), threading.current_thread())))
    future.cancel()
    assert calls == [(True, threading.current_thread())]


def test_cancelling_again_runs_no_callback_again(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    future, calls = executor.submit(int), []
    future.add_done_callback(calls.append)
    future.cancel()
    future.cancel()
    gate.open()
    executor.shutdown()
    assert calls == [future]


def test_a_callback_of_a_cancelled_future_runs_when_it_is_added(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    future, calls = executor.submit(int), []
    future.cancel()
    future.add_done_callback(calls.append)
    assert calls == [future]


def test_a_shutdown_that_cancels_runs_the_callbacks(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    future, calls = executor.submit(int), []
    future.add_done_callback(calls.append)
    executor.shutdown(wait=False, cancel_futures=True)
    assert calls == [future]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_an_error_in_a_callback_is_logged(running: Any, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    error = Refused()
    running.add_done_callback(lambda done: fail(error))
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        finish(running, gate)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("concurrent.futures", logging.ERROR)
    assert record.getMessage() == f"exception calling callback for {running!r}"
    assert record.exc_info
    assert record.exc_info[1] is error


@pytest.mark.usefixtures("caplog")
def test_callbacks_after_one_that_raises_still_run(running: Any, gate: Gate) -> None:
    calls: list[Any] = []
    running.add_done_callback(lambda done: fail(Refused()))
    running.add_done_callback(calls.append)
    finish(running, gate)
    assert calls == [running]


@pytest.mark.usefixtures("caplog")
def test_the_worker_outlives_a_callback_that_raises(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    future = executor.submit(gate.pass_through)
    future.add_done_callback(lambda done: fail(Refused()))
    gate.open()
    assert executor.submit(int, "7").result(HANG) == 7


@pytest.mark.usefixtures("caplog")
def test_an_error_in_a_callback_leaves_the_result(running: Any, gate: Gate) -> None:
    running.add_done_callback(lambda done: fail(Refused()))
    finish(running, gate)
    assert running.result(HANG) is None


def test_an_error_in_a_callback_that_runs_at_once_is_logged(finished: Any, caplog: pytest.LogCaptureFixture) -> None:
    error = Refused()
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        finished.add_done_callback(lambda done: fail(error))
    (record,) = caplog.records
    assert record.getMessage() == f"exception calling callback for {finished!r}"
    assert record.exc_info
    assert record.exc_info[1] is error


# --- what callbacks may do --------------------------------------------------------------------------------------------


def test_a_callback_may_add_another_which_runs_at_once(running: Any, gate: Gate) -> None:
    calls: list[str] = []

    def first(done: Any) -> None:
        done.add_done_callback(lambda done: calls.append("inner"))
        calls.append("first")

    running.add_done_callback(first)
    running.add_done_callback(lambda done: calls.append("second"))
    finish(running, gate)
    assert calls == ["inner", "first", "second"]


def test_a_callback_may_submit_to_its_own_executor(make_executor: Any, gate: Gate) -> None:
    executor, submitted = make_executor(1), []
    future = executor.submit(gate.pass_through)
    future.add_done_callback(lambda done: submitted.append(executor.submit(int, "7")))
    finish(future, gate)
    assert submitted[0].result(HANG) == 7


def test_a_callback_may_cancel_another_future(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    future, other = executor.submit(gate.pass_through), executor.submit(int)
    future.add_done_callback(lambda done: other.cancel())
    finish(future, gate)
    assert other.cancelled()


def test_a_callback_may_shut_its_executor_down(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    future, other = executor.submit(gate.pass_through), executor.submit(int, "7")
    future.add_done_callback(lambda done: executor.shutdown(wait=False))
    finish(future, gate)
    assert other.result(HANG) == 7
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)


def test_a_callback_may_wait_for_a_thread_that_uses_the_future(running: Any, gate: Gate) -> None:
    calls: list[Any] = []

    def callback(done: Any) -> None:
        calls.append(Started(lambda: (done.done(), done.result(HANG), repr(done) != "")).value())

    running.add_done_callback(callback)
    finish(running, gate)
    assert calls == [(True, None, True)]


def test_a_callback_that_is_held_does_not_keep_others_from_the_result(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    first, release = executor.submit(gate.pass_through), threading.Event()
    first.add_done_callback(lambda done: release.wait(HANG))
    gate.open()
    try:
        assert first.result(HANG) is None
    finally:
        release.set()


def test_callbacks_run_before_the_next_task_of_their_worker(make_executor: Any, gate: Gate) -> None:
    executor, order = make_executor(1), []
    first = executor.submit(gate.pass_through)
    first.add_done_callback(lambda done: order.append("callback"))
    second = executor.submit(order.append, "next")
    gate.open()
    second.result(HANG)
    assert order == ["callback", "next"]


def test_callbacks_added_while_tasks_finish_each_run_once(make_executor: Any) -> None:
    executor, calls = make_executor(2), []
    futures = [executor.submit(int) for _ in range(500)]
    for future in futures:
        future.add_done_callback(calls.append)
    executor.shutdown()
    assert len(calls) == 500
    assert set(calls) == set(futures)
