"""A task's future: its states, its result, cancelling it, and the attributes that other libraries look at."""

from __future__ import annotations

import concurrent.futures
import copy
import pickle
import re
import threading
from concurrent.futures import CancelledError, InvalidStateError
from typing import Any

import pytest
from executor_support import STANDARD, Refused, Thing, blocked, fail
from support import HANG, Gate

STATES = ["pending", "running", "finished", "failed", "cancelled"]


@pytest.fixture
def in_state(make_executor: Any, gate: Gate) -> Any:
    """Makes a future that is in the state, of an executor with one thread that the gate may hold."""

    def make(state: str) -> Any:
        executor = make_executor(1)
        if state in ("finished", "failed"):
            future = executor.submit(int, "7") if state == "finished" else executor.submit(fail, Refused("no"))
            concurrent.futures.wait([future], HANG)
            return future
        running = executor.submit(gate.pass_through)
        gate.wait_entered()
        if state == "running":
            return running
        future = executor.submit(int, "7")
        if state == "cancelled":
            assert future.cancel()
        return future

    return make


def test_it_is_a_standard_future(make_executor: Any) -> None:
    assert isinstance(make_executor(1).submit(int), concurrent.futures.Future)


@pytest.mark.parametrize("state", STATES)
def test_the_questions_about_the_state_are_answered(in_state: Any, state: str) -> None:
    future = in_state(state)
    assert future.done() is (state in ("finished", "failed", "cancelled"))
    assert future.running() is (state == "running")
    assert future.cancelled() is (state == "cancelled")


# --- result and exception ---------------------------------------------------------------------------------------------


def ask_result(future: Any, *args: Any, **kwargs: Any) -> Any:
    return future.result(*args, **kwargs)


def ask_exception(future: Any, *args: Any, **kwargs: Any) -> Any:
    return future.exception(*args, **kwargs)


both = pytest.mark.parametrize("ask", [ask_result, ask_exception])


@both
@pytest.mark.parametrize("state", ["pending", "running"])
@pytest.mark.parametrize("timeout", [0.01, 0, 0.0, -1, -0.5])
def test_asking_what_is_not_done_times_out(in_state: Any, ask: Any, state: str, timeout: float) -> None:
    with pytest.raises(TimeoutError):
        ask(in_state(state), timeout)


@both
def test_the_timeout_may_be_given_by_name(in_state: Any, ask: Any) -> None:
    with pytest.raises(TimeoutError):
        ask(in_state("running"), timeout=0.01)


@both
@pytest.mark.parametrize("timeout", [None, 0, -1, threading.TIMEOUT_MAX])
def test_what_is_done_is_told_whatever_the_timeout(in_state: Any, ask: Any, timeout: float | None) -> None:
    assert ask(in_state("finished"), timeout) == (7 if ask is ask_result else None)


@both
def test_a_timeout_that_is_no_number_is_a_type_error(in_state: Any, ask: Any) -> None:
    with pytest.raises(TypeError):
        ask(in_state("running"), "soon")


@both
def test_a_future_that_timed_out_still_finishes(in_state: Any, ask: Any, gate: Gate) -> None:
    future = in_state("pending")
    with pytest.raises(TimeoutError):
        ask(future, 0.01)
    gate.open()
    assert future.result(HANG) == 7


@both
@pytest.mark.parametrize("timeout", [None, HANG, threading.TIMEOUT_MAX])
def test_who_waits_wakes_when_the_task_finishes(in_state: Any, ask: Any, gate: Gate, timeout: float | None) -> None:
    future = in_state("pending")
    waiting = blocked(ask, future, timeout)
    gate.open()
    assert waiting.value() == (7 if ask is ask_result else None)


def test_a_timeout_error_of_the_task_itself_is_its_exception(make_executor: Any) -> None:
    error = TimeoutError("the task's own")
    future = make_executor(1).submit(fail, error)
    with pytest.raises(TimeoutError) as raised:
        future.result(HANG)
    assert raised.value is error


# --- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_only_what_has_not_started_can_be_cancelled(in_state: Any, state: str) -> None:
    future = in_state(state)
    able = state in ("pending", "cancelled")
    assert future.cancel() is able
    assert future.cancelled() is able


@both
def test_a_cancelled_future_says_so(in_state: Any, ask: Any) -> None:
    with pytest.raises(CancelledError):
        ask(in_state("cancelled"), HANG)


@both
def test_who_waits_for_a_future_hears_that_it_is_cancelled(in_state: Any, ask: Any) -> None:
    future = in_state("pending")
    waiting = blocked(ask, future)
    assert future.cancel()
    with pytest.raises(CancelledError):
        waiting.value()


def test_a_cancelled_task_never_runs(make_executor: Any, gate: Gate) -> None:
    executor, ran = make_executor(1), []
    executor.submit(gate.pass_through)
    gate.wait_entered()
    futures = [executor.submit(ran.append, n) for n in range(4)]
    assert futures[1].cancel()
    assert futures[2].cancel()
    gate.open()
    executor.shutdown()
    assert ran == [0, 3]


def test_a_cancelled_future_stays_cancelled_when_the_worker_has_come_by(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    future = executor.submit(int)
    future.cancel()
    gate.open()
    executor.shutdown()
    assert future.cancelled()
    assert not future.running()
    assert future.cancel()


def test_cancelling_from_many_threads_while_tasks_start_loses_none(make_executor: Any) -> None:
    executor, ran = make_executor(2), []
    futures = [executor.submit(ran.append, n) for n in range(400)]
    cancelled = [blocked(lambda: [future.cancel() for future in futures]) for _ in range(3)]
    lots = [started.value() for started in cancelled]
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert sorted(ran) == [n for n, future in enumerate(futures) if not future.cancelled()]
    assert all(future.cancelled() == any(lot[n] for lot in lots) for n, future in enumerate(futures))


# --- the methods for executors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["running", "finished", "failed"])
def test_what_has_started_cannot_be_set_running(in_state: Any, state: str) -> None:
    with pytest.raises(RuntimeError, match="Future in unexpected state"):
        in_state(state).set_running_or_notify_cancel()


def test_a_cancelled_future_that_no_worker_will_see_can_be_told_to_notify(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    future = executor.submit(int)
    executor.shutdown(wait=False, cancel_futures=True)
    assert future.set_running_or_notify_cancel() is False
    assert concurrent.futures.wait([future], HANG).done == {future}


@pytest.mark.parametrize("setter", ["set_result", "set_exception"])
def test_what_is_finished_cannot_be_set_again(in_state: Any, setter: str) -> None:
    future = in_state("finished")
    with pytest.raises(InvalidStateError, match=r"^FINISHED: <Future at 0x[0-9a-f]+ state=finished returned int>$"):
        getattr(future, setter)(ValueError())
    assert future.result() == 7


@pytest.mark.parametrize("setter", ["set_result", "set_exception"])
def test_what_is_cancelled_cannot_be_set(in_state: Any, setter: str) -> None:
    future = in_state("cancelled")
    with pytest.raises(
        InvalidStateError, match=r"^CANCELLED(_AND_NOTIFIED)?: <Future at 0x[0-9a-f]+ state=cancelled>$"
    ):
        getattr(future, setter)(ValueError())
    assert future.cancelled()


# --- what is seen of it -----------------------------------------------------------------------------------------------

DESCRIPTIONS = {
    "pending": "state=pending",
    "running": "state=running",
    "finished": "state=finished returned int",
    "failed": "state=finished raised Refused",
    "cancelled": "state=cancelled",
}


@pytest.mark.parametrize("state", STATES)
def test_its_description_tells_the_state(in_state: Any, state: str) -> None:
    future = in_state(state)
    assert re.fullmatch(f"<Future at 0x[0-9a-f]+ {DESCRIPTIONS[state]}>", repr(future))
    assert hex(id(future)) in repr(future)


KEYS = {"_condition", "_state", "_result", "_exception", "_waiters", "_done_callbacks"}


@pytest.mark.parametrize("state", STATES)
def test_its_variables_are_the_six(in_state: Any, state: str) -> None:
    assert set(vars(in_state(state))) == KEYS


def inner_state(executor_class: Any, state: str) -> str:
    """torchpool's waiting tasks leave their queue when they are cancelled, and those who wait are told at once."""
    cancelled = "CANCELLED" if executor_class is STANDARD else "CANCELLED_AND_NOTIFIED"
    return dict(zip(STATES, ["PENDING", "RUNNING", "FINISHED", "FINISHED", cancelled], strict=True))[state]


@pytest.mark.parametrize("state", STATES)
def test_its_inner_state_has_the_name_of_always(executor_class: Any, in_state: Any, state: str) -> None:
    future = in_state(state)
    assert future._state == inner_state(executor_class, state)
    assert vars(future)["_state"] == inner_state(executor_class, state)


def test_the_inner_state_of_a_cancelled_future_tells_that_the_worker_came_by(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    future = executor.submit(int)
    future.cancel()
    gate.open()
    executor.shutdown()
    assert future._state == "CANCELLED_AND_NOTIFIED"


def test_the_inner_result_is_the_result(make_executor: Any) -> None:
    thing = Thing()
    future = make_executor(1).submit(lambda: thing)
    future.result(HANG)
    assert future._result is thing
    assert future._exception is None


def test_the_inner_exception_is_the_exception(in_state: Any) -> None:
    future = in_state("failed")
    assert future._exception is future.exception()
    assert future._result is None


def test_the_inner_list_of_callbacks_holds_those_that_wait(in_state: Any) -> None:
    future, callback = in_state("pending"), repr
    future.add_done_callback(callback)
    assert future._done_callbacks == [callback]


@pytest.mark.parametrize("state", STATES)
def test_a_future_nobody_waits_for_has_no_waiters(in_state: Any, state: str) -> None:
    assert in_state(state)._waiters == []


@pytest.mark.parametrize("state", STATES)
def test_its_condition_may_be_held_while_it_is_asked(executor_class: Any, in_state: Any, state: str) -> None:
    future = in_state(state)
    with future._condition:
        assert future.running() is (state == "running")
        assert future._state == inner_state(executor_class, state)


def test_its_condition_is_one_object(in_state: Any) -> None:
    future = in_state("pending")
    assert future._condition is future._condition
    assert vars(future)["_condition"] is future._condition


def test_its_condition_is_notified_when_the_task_finishes(in_state: Any, gate: Gate) -> None:
    future = in_state("running")

    def wait() -> bool:
        with future._condition:
            return bool(future._condition.wait_for(lambda: future._state == "FINISHED", HANG))

    waiting = blocked(wait)
    gate.open()
    assert waiting.value()


def test_a_future_does_not_finish_while_another_thread_holds_its_condition(in_state: Any, gate: Gate) -> None:
    future = in_state("running")
    with future._condition:
        waiting = blocked(gate.open)
        assert future._state == "RUNNING"
    waiting.value()
    assert future.result(HANG) is None


@pytest.mark.parametrize("state", STATES)
def test_attributes_may_be_added(in_state: Any, state: str) -> None:
    future = in_state(state)
    future.foo = 1
    assert future.foo == 1
    assert set(vars(future)) == {*KEYS, "foo"}


def test_its_type_takes_a_parameter(in_state: Any) -> None:
    assert type(in_state("finished"))[int].__args__ == (int,)


def test_it_equals_itself_only(make_executor: Any) -> None:
    executor = make_executor(1)
    one, other = executor.submit(int), executor.submit(int)
    assert one == one
    assert one != other
    assert {one: 1}[one] == 1


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_it_cannot_be_pickled(in_state: Any, protocol: int) -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(in_state("finished"), protocol)


def test_a_copy_of_a_finished_future_has_its_result(in_state: Any) -> None:
    future = in_state("finished")
    other = copy.copy(future)
    assert other is not future
    assert (other.done(), other.result(HANG)) == (True, 7)


def test_a_copy_of_a_failed_future_has_its_exception(in_state: Any) -> None:
    future = in_state("failed")
    assert copy.copy(future).exception(HANG) is future.exception()


def test_a_copy_is_of_the_same_type(in_state: Any) -> None:
    future = in_state("finished")
    assert type(copy.copy(future)) is type(future)


def test_it_cannot_be_copied_deeply(in_state: Any) -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        copy.deepcopy(in_state("finished"))
