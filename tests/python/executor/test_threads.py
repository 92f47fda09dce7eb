"""The threads of an executor, and what a task finds in them: thread-locals and context variables."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import weakref
from typing import Any

from executor_support import Started, Thing
from support import HANG, Gate


def workers_of(executor: Any, count: int) -> list[threading.Thread]:
    """The threads of `count` tasks that run at the same time."""
    together = threading.Barrier(count)
    futures = [executor.submit(lambda: (together.wait(HANG), threading.current_thread())[1]) for _ in range(count)]
    return [future.result(HANG) for future in futures]


def test_there_are_no_threads_before_there_is_work(make_executor: Any) -> None:
    assert len(make_executor(3)._threads) == 0


def test_each_task_that_finds_no_idle_thread_starts_one(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(3)
    for count in (1, 2, 3):
        executor.submit(gate.pass_through)
        assert len(executor._threads) == count


def test_there_are_never_more_threads_than_asked_for(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(4)
    for _ in range(15 * 4):
        executor.submit(gate.pass_through)
    assert len(executor._threads) == 4


def test_an_executor_that_is_shut_down_still_tells_its_threads(make_executor: Any) -> None:
    executor = make_executor(2)
    workers = workers_of(executor, 2)
    executor.shutdown()
    assert set(executor._threads) == set(workers)


def test_all_threads_work_at_the_same_time(make_executor: Any) -> None:
    assert len(set(workers_of(make_executor(4), 4))) == 4


def test_tasks_wait_while_all_threads_are_busy(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(2)
    executor.submit(gate.pass_through)
    executor.submit(gate.pass_through)
    gate.wait_entered(2)
    future = executor.submit(int, "7")
    assert not future.running()
    gate.open()
    assert future.result(HANG) == 7


def test_an_idle_thread_is_used_again(make_executor: Any) -> None:
    executor = make_executor(50)
    for _ in range(50):
        executor.submit(int).result(HANG)
    # Not always one: a thread that has just told its result may not yet count as idle.
    assert len(executor._threads) < 10


def test_one_thread_is_used_for_all_when_there_may_be_one_only(make_executor: Any) -> None:
    executor = make_executor(1)
    workers = {executor.submit(threading.current_thread).result(HANG) for _ in range(50)}
    assert workers == set(executor._threads)


def test_they_are_threads_of_threading(make_executor: Any) -> None:
    executor = make_executor(2)
    workers_of(executor, 2)
    assert all(isinstance(thread, threading.Thread) for thread in executor._threads)
    assert len(executor._threads) == 2


def test_the_current_thread_of_a_task_is_one_of_them(make_executor: Any) -> None:
    executor = make_executor(2)
    assert set(workers_of(executor, 2)) == set(executor._threads)


def test_threading_lists_them(make_executor: Any) -> None:
    executor = make_executor(2)
    assert set(workers_of(executor, 2)) <= set(threading.enumerate())


def test_threading_lists_them_no_longer_after_a_shutdown(make_executor: Any) -> None:
    executor = make_executor(2)
    workers = workers_of(executor, 2)
    executor.shutdown()
    assert not set(workers) & set(threading.enumerate())


def test_a_worker_has_the_identifier_that_a_task_sees(make_executor: Any) -> None:
    executor = make_executor(1)
    identifiers = executor.submit(lambda: (threading.get_ident(), threading.get_native_id())).result(HANG)
    (worker,) = executor._threads
    assert identifiers == (worker.ident, worker.native_id)


def test_a_worker_is_alive_while_its_executor_is(make_executor: Any) -> None:
    executor = make_executor(1)
    executor.submit(int).result(HANG)
    (worker,) = executor._threads
    assert worker.is_alive()


def test_a_worker_is_no_daemon(make_executor: Any) -> None:
    (worker,) = workers_of(make_executor(1), 1)
    assert not worker.daemon


def test_a_task_is_not_on_the_thread_that_submits_it(make_executor: Any) -> None:
    assert workers_of(make_executor(1), 1) != [threading.current_thread()]


def test_the_threads_are_those_of_one_executor_only(make_executor: Any) -> None:
    one, other = make_executor(1), make_executor(1)
    workers_of(one, 1)
    workers_of(other, 1)
    assert not set(one._threads) & set(other._threads)


def test_submits_from_many_threads_start_no_thread_too_many(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(4)
    for started in [Started(lambda: [executor.submit(gate.pass_through) for _ in range(50)]) for _ in range(4)]:
        started.value()
    assert len(executor._threads) == 4


def test_a_stack_of_a_worker_shows_its_task(make_executor: Any, gate: Gate) -> None:
    def task_with_a_name() -> None:
        gate.pass_through()

    executor = make_executor(1)
    executor.submit(task_with_a_name)
    gate.wait_entered()
    (worker,) = executor._threads
    frame, names = sys._current_frames()[worker.ident], []
    while frame:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    assert "task_with_a_name" in names


# --- thread-locals ----------------------------------------------------------------------------------------------------


def test_a_thread_local_of_a_worker_lasts_from_task_to_task(make_executor: Any) -> None:
    executor, local = make_executor(1), threading.local()
    executor.submit(setattr, local, "x", 7).result(HANG)
    assert executor.submit(getattr, local, "x", None).result(HANG) == 7


def test_a_thread_local_of_the_submitter_is_not_seen(make_executor: Any) -> None:
    local = threading.local()
    local.x = 7
    assert make_executor(1).submit(getattr, local, "x", None).result(HANG) is None


def test_a_thread_local_of_a_worker_goes_with_its_thread(make_executor: Any) -> None:
    executor, local = make_executor(1), threading.local()

    def keep() -> Any:
        local.x = Thing()
        return weakref.ref(local.x)

    reference = executor.submit(keep).result(HANG)
    assert reference() is not None
    executor.shutdown()
    assert reference() is None


# --- context variables ------------------------------------------------------------------------------------------------


def test_a_context_variable_of_the_submitter_is_not_seen_by_a_task(make_executor: Any) -> None:
    variable = contextvars.ContextVar("variable", default="default")
    token = variable.set("of the submitter")
    assert make_executor(1).submit(variable.get).result(HANG) == "default"
    variable.reset(token)


def test_a_context_variable_that_a_task_sets_is_seen_by_the_next_of_its_worker(make_executor: Any) -> None:
    executor, variable = make_executor(1), contextvars.ContextVar("variable", default="default")
    executor.submit(variable.set, "of a task").result(HANG)
    assert executor.submit(variable.get).result(HANG) == "of a task"


def test_a_context_variable_that_a_task_sets_is_not_seen_by_the_submitter(make_executor: Any) -> None:
    variable = contextvars.ContextVar("variable", default="default")
    make_executor(1).submit(variable.set, "of a task").result(HANG)
    assert variable.get() == "default"


def test_a_context_variable_that_a_task_sets_is_not_seen_by_another_worker(make_executor: Any, gate: Gate) -> None:
    executor, variable = make_executor(2), contextvars.ContextVar("variable", default="default")
    executor.submit(lambda: (variable.set("of a task"), gate.pass_through()))
    gate.wait_entered()
    assert executor.submit(variable.get).result(HANG) == "default"


def test_a_context_variable_that_the_initializer_sets_is_seen_by_tasks(make_executor: Any) -> None:
    variable = contextvars.ContextVar("variable", default="default")
    executor = make_executor(1, initializer=variable.set, initargs=("of the initializer",))
    assert executor.submit(variable.get).result(HANG) == "of the initializer"


def test_a_task_may_run_in_a_context_that_it_is_given(make_executor: Any) -> None:
    variable = contextvars.ContextVar("variable", default="default")
    context = contextvars.copy_context()
    context.run(variable.set, "of the context")
    executor = make_executor(1)
    assert executor.submit(context.run, variable.get).result(HANG) == "of the context"
    assert executor.submit(variable.get).result(HANG) == "default"


def test_a_task_may_run_an_event_loop(make_executor: Any) -> None:
    async def main() -> int:
        await asyncio.sleep(0)
        return 7

    assert make_executor(1).submit(asyncio.run, main()).result(HANG) == 7
