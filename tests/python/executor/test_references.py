"""What is freed, and when: arguments, results, exceptions, futures, and cycles of them."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import as_completed
from typing import Any

import pytest
from executor_support import Refused, Thing, fail, freed, join, refuse
from support import HANG, Gate

pytestmark = pytest.mark.usefixtures("no_gc")


def test_an_argument_is_freed_once_the_task_has_run(make_executor: Any) -> None:
    executor, thing = make_executor(1), Thing()
    gone = freed(thing)
    future = executor.submit(lambda x: None, thing)
    del thing
    assert gone.wait(HANG)
    assert future.result(HANG) is None


def test_a_keyword_argument_is_freed_once_the_task_has_run(make_executor: Any) -> None:
    executor, thing = make_executor(1), Thing()
    gone = freed(thing)
    future = executor.submit(lambda *, x: None, x=thing)
    del thing
    assert gone.wait(HANG)
    assert future.result(HANG) is None


def test_the_function_is_freed_once_it_has_run(make_executor: Any) -> None:
    def work() -> None:
        pass

    gone = freed(work)
    future = make_executor(1).submit(work)
    del work
    assert gone.wait(HANG)
    assert future.result(HANG) is None


def test_the_argument_of_a_task_that_failed_is_freed_with_its_future(make_executor: Any) -> None:
    executor, thing = make_executor(1), Thing()
    gone = freed(thing)
    future = executor.submit(refuse, thing)
    del thing
    future.exception(HANG)
    assert not gone.is_set()  # the traceback shows it
    del future
    assert gone.wait(HANG)


def test_the_argument_of_a_cancelled_task_is_freed_once_the_worker_came_by(make_executor: Any, gate: Gate) -> None:
    executor, thing = make_executor(1), Thing()
    gone = freed(thing)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    future = executor.submit(lambda x: None, thing)
    del thing
    assert future.cancel()
    gate.open()
    assert gone.wait(HANG)


def test_the_arguments_of_tasks_that_a_shutdown_cancels_are_freed(make_executor: Any, gate: Gate) -> None:
    executor, thing = make_executor(1), Thing()
    gone = freed(thing)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    future = executor.submit(lambda x: None, thing)
    del thing
    executor.shutdown(wait=False, cancel_futures=True)
    assert gone.wait(HANG)
    assert future.cancelled()


def test_a_result_is_kept_by_its_future_and_freed_with_it(make_executor: Any) -> None:
    future = make_executor(1).submit(Thing)
    gone = freed(future.result(HANG))
    assert not gone.is_set()
    del future
    assert gone.wait(HANG)


def test_a_result_nobody_asks_for_is_freed(make_executor: Any) -> None:
    executor, thing = make_executor(1), Thing()
    gone = freed(thing)
    executor.submit(lambda x: x, thing)
    del thing
    assert gone.wait(HANG)


def test_a_future_is_freed_when_its_task_is_done(make_executor: Any) -> None:
    future = make_executor(1).submit(int)
    gone = freed(future)
    future.result(HANG)
    del future
    assert gone.wait(HANG)


def test_a_pending_future_that_is_dropped_still_runs(make_executor: Any, gate: Gate) -> None:
    executor, ran = make_executor(1), []
    executor.submit(gate.pass_through)
    executor.submit(ran.append, 1)
    gate.open()
    executor.shutdown()
    assert ran == [1]


def test_a_weak_reference_to_a_future_works(make_executor: Any) -> None:
    future = make_executor(1).submit(int)
    reference = weakref.ref(future)
    assert reference() is future
    assert {future} == set(weakref.WeakSet([future]))


def test_a_future_whose_exception_was_asked_for_is_freed_without_the_collector(make_executor: Any) -> None:
    future = make_executor(1).submit(refuse)
    gone = freed(future)
    assert isinstance(future.exception(HANG), Refused)
    del future
    assert gone.wait(HANG)


def test_a_future_whose_result_raised_is_freed_without_the_collector(make_executor: Any) -> None:
    future = make_executor(1).submit(refuse)
    gone = freed(future)
    try:
        future.result(HANG)
    except Refused:
        del future
    assert gone.wait(HANG)


def test_an_exception_does_not_keep_its_future(make_executor: Any) -> None:
    future = make_executor(1).submit(refuse)
    gone = freed(future)
    error = future.exception(HANG)
    del future
    assert gone.wait(HANG)
    assert isinstance(error, Refused)


def test_an_exception_is_freed_with_its_future(make_executor: Any) -> None:
    future = make_executor(1).submit(refuse)
    gone = freed(future.exception(HANG))
    assert not gone.is_set()
    del future
    assert gone.wait(HANG)


def test_a_future_that_timed_out_is_freed_without_the_collector(make_executor: Any, gate: Gate) -> None:
    future = make_executor(1).submit(gate.pass_through)
    gone = freed(future)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    gate.open()
    future.result(HANG)
    del future
    assert gone.wait(HANG)


def test_an_idle_worker_keeps_nothing_of_its_last_task(make_executor: Any) -> None:
    executor, thing = make_executor(1), Thing()
    gone = freed(thing)
    executor.submit(lambda x: x, thing).result(HANG)
    del thing
    assert gone.wait(HANG)


# --- cycles, which the collector finds --------------------------------------------------------------------------------


def collected(gone: Any) -> bool:
    gc.collect()
    return bool(gone.wait(HANG))


def test_a_future_whose_result_refers_to_it_is_collected(make_executor: Any) -> None:
    executor, box = make_executor(1), []
    box.append(executor.submit(lambda x: x, box))
    gone = freed(box[0])
    assert box[0].result(HANG) is box
    executor.shutdown()
    del box
    assert collected(gone)


def test_a_future_whose_exception_refers_to_it_is_collected(make_executor: Any) -> None:
    executor, error = make_executor(1), Refused()
    future = executor.submit(fail, error)
    gone = freed(future)
    error.future = future
    future.exception(HANG)
    executor.shutdown()
    del future, error
    assert collected(gone)


def test_a_future_whose_callback_refers_to_it_is_collected(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    future = executor.submit(gate.pass_through)
    gone = freed(future)

    def callback(done: Any, own: Any = future) -> None:
        pass

    future.add_done_callback(callback)
    gate.open()
    executor.shutdown()
    del future, callback
    assert collected(gone)


def test_a_future_with_an_attribute_that_refers_to_it_is_collected(make_executor: Any) -> None:
    executor = make_executor(1)
    future = executor.submit(int)
    gone = freed(future)
    future.own = future
    executor.shutdown()
    del future
    assert collected(gone)


def test_a_collection_during_a_task_leaves_its_arguments_and_result(make_executor: Any) -> None:
    executor, thing = make_executor(1), Thing()
    reference = weakref.ref(thing)

    def work(x: Any, *, y: Any) -> Any:
        gc.collect()
        return x, y

    future = executor.submit(work, thing, y=[thing])
    del thing
    first, (second,) = future.result(HANG)
    assert first is second is reference()


def test_a_collection_leaves_what_waits_to_run(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    future = executor.submit(lambda x: x, [Thing()])
    gc.collect()
    gate.open()
    assert isinstance(future.result(HANG)[0], Thing)


# --- executors --------------------------------------------------------------------------------------------------------


def test_an_executor_is_freed_without_the_collector(make_executor: Any) -> None:
    executor = make_executor(1)
    gone = freed(executor)
    executor.submit(int).result(HANG)
    threads = list(executor._threads)
    del executor
    assert gone.wait(HANG)
    join(threads)


def test_futures_do_not_keep_their_executor(make_executor: Any) -> None:
    executor = make_executor(1)
    gone = freed(executor)
    future = executor.submit(int)
    future.result(HANG)
    del executor
    assert gone.wait(HANG)
    assert future.done()


def test_a_running_task_does_not_keep_its_executor(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    gone = freed(executor)
    future = executor.submit(gate.pass_through)
    gate.wait_entered()
    del executor
    assert gone.wait(HANG)
    gate.open()
    assert future.result(HANG) is None


def test_an_executor_that_refers_to_itself_is_collected(make_executor: Any) -> None:
    executor = make_executor(1)
    gone = freed(executor)
    executor.own = executor
    executor.submit(int).result(HANG)
    threads = list(executor._threads)
    del executor
    assert collected(gone)
    join(threads)


def test_an_executor_whose_initializer_refers_to_it_is_collected(make_executor: Any) -> None:
    box: list[Any] = []
    box.append(make_executor(1, initializer=box.count, initargs=(1,)))
    gone = freed(box[0])
    del box
    assert collected(gone)


# --- what is given one after the other --------------------------------------------------------------------------------


def test_as_completed_keeps_no_future_that_it_has_given(make_executor: Any) -> None:
    executor = make_executor(2)
    completed = as_completed([executor.submit(int) for _ in range(10)], HANG)
    for future in completed:
        gone = freed(future)
        del future
        assert gone.wait(HANG)


def test_map_keeps_no_result_that_it_has_given(make_executor: Any) -> None:
    for thing in make_executor(2).map(lambda n: Thing(), range(10)):
        gone = freed(thing)
        del thing
        assert gone.wait(HANG)


def test_map_keeps_no_exception_that_it_has_raised(make_executor: Any) -> None:
    results = make_executor(1).map(refuse, range(3))
    try:
        next(results)
    except Refused as error:
        gone = freed(error)
    assert gone.wait(HANG)


def test_map_keeps_no_argument_whose_task_has_run(make_executor: Any) -> None:
    executor, thing = make_executor(1), Thing()
    gone = freed(thing)
    results = executor.map(lambda x: None, [thing])
    del thing
    assert gone.wait(HANG)
    assert list(results) == [None]
