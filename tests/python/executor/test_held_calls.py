"""Predictors' calls of an executor to their end: drained, cancelled, broken, held, and in a forked child."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
import torch
from executor_support import blocked
from stream_support import drain, in_map, pending, rows, seen, submitted
from support import HANG, MARK, Gate, assert_all_close, assert_clean, eager, row, run_python

import torchpool

TORCHPOOL_ONLY = True  # to the standard one a predictor is a function as any other


@pytest.fixture
def executor(make_executor: Any) -> torchpool.ThreadPoolExecutor:
    return make_executor(1)


WAYS = pytest.mark.parametrize("start", [submitted, in_map])


def assert_results(outcomes: list[Any], held: Any, values: Any) -> None:
    assert_all_close(outcomes, (eager(held.model.linear, row(value)) for value in values))


@WAYS
def test_shutdown_waits_for_everything_accepted(executor: Any, hold: Any, start: Any) -> None:
    held = hold(queue_size=2)
    held.hold()
    outcomes = start(executor, held.predict, list(range(20)))
    ending = blocked(executor.shutdown)
    assert ending.thread.is_alive()
    assert pending(executor) == 20
    held.gate.open()
    ending.value()
    assert pending(executor) == 0
    assert seen(held) == list(range(20))
    assert_results(outcomes(), held, range(20))
    executor.shutdown()


@WAYS
@pytest.mark.parametrize("queue_size", [1, 3, 100])
def test_a_shutdown_that_cancels_cancels_what_has_not_started(
    executor: Any, hold: Any, start: Any, queue_size: int
) -> None:
    held = hold(queue_size=queue_size)
    first = held.hold()
    outcomes = start(executor, held.predict, list(range(20)))
    executor.shutdown(cancel_futures=True)
    assert {type(outcome) for outcome in outcomes()} == {concurrent.futures.CancelledError}
    assert pending(executor) == 0
    held.gate.open()
    assert first.result(HANG).shape == (1, 3)
    held.predict.close()
    assert seen(held) == []
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]


@WAYS
def test_a_shutdown_that_cancels_cancels_what_only_waits_for_room_in_a_map(
    executor: Any, hold: Any, start: Any
) -> None:
    held = hold(max_batch=32)
    held.hold()
    count = 2 * held.predict._calls_ahead(None)
    outcomes = start(executor, held.predict, list(range(count)))
    assert pending(executor) == count
    executor.shutdown(cancel_futures=True)
    assert pending(executor) == 0
    held.gate.open()
    assert {type(outcome) for outcome in outcomes()} == {concurrent.futures.CancelledError}
    held.predict.close()
    assert seen(held) == []


@WAYS
def test_a_shutdown_that_cancels_lets_what_runs_finish(executor: Any, hold: Any, start: Any) -> None:
    held = hold(max_batch=1)
    outcomes = start(executor, held.predict, [MARK, 1, 2])
    held.gate.wait_entered()
    ending = blocked(lambda: executor.shutdown(cancel_futures=True))
    assert ending.thread.is_alive()
    held.gate.open()
    ending.value()
    first, *rest = outcomes()
    assert_results([first], held, [MARK])
    assert {type(outcome) for outcome in rest} == {concurrent.futures.CancelledError}


@WAYS
@pytest.mark.parametrize("count", [5, 300])
def test_nothing_is_sent_before_the_initializer_has_run(
    make_executor: Any, gate: Gate, hold: Any, start: Any, count: int
) -> None:
    held = hold()
    held.gate.open()
    executor = make_executor(1, initializer=gate.pass_through)
    outcomes = start(executor, held.predict, list(range(count)))
    gate.wait_entered()
    assert pending(executor) == count
    assert seen(held) == []
    assert held.predict.stats()["accepted"] == 0
    gate.open()
    drain(executor)
    assert_results(outcomes(), held, range(count))
    assert seen(held) == list(range(count))


def test_whoever_iterates_waits_for_the_initializer(make_executor: Any, gate: Gate, hold: Any) -> None:
    held = hold()
    held.gate.open()
    for buffersize in (None, 2):
        opened = Gate()
        executor = make_executor(1, initializer=opened.pass_through)
        results = executor.map(held.predict, rows(*range(5)), buffersize=buffersize)
        threading.Thread(target=opened.open).start()
        assert_results(list(results), held, range(5))
    results = make_executor(1, initializer=gate.pass_through).map(held.predict, rows(1), timeout=0.01)
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()


def broken_by(gate: Gate) -> Callable[[], None]:
    def fail() -> None:
        gate.pass_through()
        raise ValueError("the initializer failed")

    return fail


@WAYS
@pytest.mark.parametrize("count", [5, 300])
def test_a_failed_initializer_fails_what_is_held_each_with_an_exception_of_its_own(
    make_executor: Any, gate: Gate, hold: Any, start: Any, count: int
) -> None:
    held = hold()
    executor = make_executor(1, initializer=broken_by(gate))
    outcomes = start(executor, held.predict, list(range(count)))
    assert pending(executor) == count
    gate.open()
    drain(executor)
    found = outcomes()
    assert {type(outcome) for outcome in found} == {BrokenThreadPool}
    assert {outcome.args for outcome in found} == {
        ("A thread initializer failed, the thread pool is not usable anymore",)
    }
    if start is submitted:
        assert len({id(outcome) for outcome in found}) == count
    assert pending(executor) == 0
    assert held.predict.stats()["accepted"] == 0
    with pytest.raises(BrokenThreadPool):
        start(executor, held.predict, [1.0])


def test_a_submit_that_meets_a_shutdown_which_cancels_is_cancelled(executor: Any, hold: Any) -> None:
    """The executor was not shut down yet when it was asked whether it takes calls."""
    executor._predictor_calls.cancel_waiting()
    assert executor.submit(hold().predict, row(1)).cancelled()
    drain(executor)


def test_with_buffersize_nothing_is_read_after_a_shutdown(make_executor: Any, hold: Any) -> None:
    held = hold()
    held.gate.open()
    executor = make_executor(1)
    results = executor.map(held.predict, rows(*range(9)), buffersize=2)
    executor.shutdown()
    assert_results([next(results), next(results)], held, range(2))
    with pytest.raises(RuntimeError, match="after shutdown"):
        next(results)
    assert list(results) == []
    assert pending(executor) == 0


def test_a_map_that_still_reads_its_input_is_stopped_by_a_shutdown(executor: Any, hold: Any) -> None:
    held = hold()
    pulled: list[int] = []

    def inputs() -> Iterator[torch.Tensor]:
        for n in range(100):
            pulled.append(n)
            if n == 3:
                executor.shutdown(wait=False)
            yield row(n)

    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(held.predict, inputs())
    assert pulled == [0, 1, 2, 3]
    executor.shutdown()
    assert pending(executor) == 0


# --- ended by others --------------------------------------------------------------------------------------------------


@pytest.fixture
def held_call(make_executor: Any, gate: Gate, hold: Any) -> tuple[Any, Any]:
    """An executor whose initializer waits at the gate, and the future of a call that it holds until then."""
    executor = make_executor(1, initializer=gate.pass_through)
    return executor, executor.submit(hold().predict, row(1))


def exits(future: Any) -> None:
    future.add_done_callback(lambda _: sys.exit(3))


def test_a_held_call_whose_callback_exits_when_it_is_cancelled_is_over(held_call: Any) -> None:
    executor, future = held_call
    exits(future)
    with pytest.raises(SystemExit):
        future.cancel()
    assert future.cancelled()
    assert pending(executor) == 0


def test_a_held_call_that_the_standards_own_cancel_ends_with_an_exit_is_over(held_call: Any) -> None:
    executor, future = held_call
    exits(future)
    assert future._done_callbacks  # a look inside, after which the standard's code works on it
    with pytest.raises(SystemExit):
        future.cancel()
    assert future.cancelled()
    assert pending(executor) == 0


@pytest.mark.parametrize("end", [lambda f: f.set_result(7), lambda f: f.set_exception(ValueError("mine"))])
@pytest.mark.parametrize("cancels", [False, True])
def test_a_held_call_that_its_caller_ends_is_over_when_its_turn_comes(
    held_call: Any, gate: Gate, hold: Any, end: Any, cancels: bool
) -> None:
    executor, future = held_call
    end(future)
    if not cancels:
        gate.open()
    executor.shutdown(wait=False, cancel_futures=cancels)
    drain(executor)
    gate.open()
    assert pending(executor) == 0
    assert future.done() and not future.cancelled()


def test_a_shutdown_that_cancels_raises_what_a_callback_exits_with_and_has_cancelled_all(
    held_call: Any, hold: Any
) -> None:
    executor, first = held_call
    futures = [first, *(executor.submit(hold().predict, row(n)) for n in range(3))]
    exits(futures[-1])  # which is the first to be cancelled
    with pytest.raises(SystemExit):
        executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    assert pending(executor) == 0


# --- forks ------------------------------------------------------------------------------------------------------------


def test_in_a_forked_child_what_is_pending_fails() -> None:
    done = run_python(
        """
        import os
        from concurrent.futures.thread import BrokenThreadPool
        from support import *
        from stream_support import *

        held = Held(queue_size=2, max_batch=32)
        held.hold()
        executor, dropped = torchpool.ThreadPoolExecutor(1), torchpool.ThreadPoolExecutor(1)
        futures = [executor.submit(held.predict, row(n)) for n in range(5)]
        futures += [dropped.submit(held.predict, row(5))]
        called = []
        futures[0].add_done_callback(called.append)
        count = 3 * held.predict._calls_ahead(None)
        results = executor.map(held.predict, rows(*range(count)))
        lazy = dropped.map(held.predict, rows(*range(9)), buffersize=2)
        del dropped
        child = os.fork()
        if child == 0:
            code = 1
            try:
                drain(executor)
                assert pending(executor) == 0
                for future in futures:
                    assert isinstance(future.exception(0), BrokenThreadPool)
                    assert str(future.exception(0)).startswith("submitted before the fork")
                for iterator in (results, lazy):
                    try:
                        next(iterator)
                    except BrokenThreadPool:
                        code = 0
                assert not called  # an event loop's would write into the parent's pipes
                held.gate.open()
                again = executor.submit(held.predict, row(7))
                assert again.result(60).shape == (1, 3)
                assert len(list(executor.map(held.predict, rows(*range(count))))) == count
            except BaseException:
                import traceback

                traceback.print_exc()
                code = 2
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        held.gate.open()
        for n, future in enumerate(futures):
            assert_close(future.result(60), eager(held.model.linear, row(n)))
        assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(count)))
        assert_all_close(lazy, (eager(held.model.linear, row(n)) for n in range(9)))
        assert called == [futures[0]]
        held.release()
        """
    )
    assert_clean(done)


def test_in_a_forked_child_calls_that_wait_for_the_initializer_fail_and_others_start() -> None:
    done = run_python(
        """
        import os
        from concurrent.futures.thread import BrokenThreadPool
        from support import *
        from stream_support import *

        predict = torchpool.wrap(build(MarkerModule), example=row())
        gate = Gate()
        executor = torchpool.ThreadPoolExecutor(1, initializer=gate.pass_through)
        future = executor.submit(predict, row(1))
        results = executor.map(predict, rows(*range(300)))
        gate.wait_entered()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert isinstance(future.exception(0), BrokenThreadPool)
                gate.open()
                assert executor.submit(predict, row(2)).result(60).shape == (1, 3)
                executor.shutdown()
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        gate.open()
        assert future.result(60).shape == (1, 3)
        assert len(list(results)) == 300
        """
    )
    assert_clean(done)
