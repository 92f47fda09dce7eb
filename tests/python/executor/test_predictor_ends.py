"""Predictors as tasks: shutdown, initializers, dropped executors, and the program's end."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from executor_support import Refused, blocked, freed, run_program
from stream_support import rows, seen
from support import HANG, Gate, MarkerModule, assert_all_close, assert_clean, assert_close, build, eager, row

import torchpool

TORCHPOOL_ONLY = True  # to the standard one a predictor is a function as any other

REFUSAL = r"^cannot schedule new futures after shutdown$"


@pytest.fixture
def predict() -> Iterator[torchpool.Predictor]:
    with torchpool.wrap(build(MarkerModule), example=row()) as predictor:
        yield predictor


def expect(held: Any, *values: float) -> list[torch.Tensor]:
    return [eager(held.model.linear, row(value)) for value in values]


# --- shutdown ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_size", [1, None])
def test_shutdown_waits_for_submitted_calls(make_executor: Any, hold: Any, queue_size: int | None) -> None:
    executor, held = make_executor(1), hold(**({} if queue_size is None else {"queue_size": queue_size}))
    held.hold()
    futures = [executor.submit(held.predict, row(n)) for n in range(5)]
    ending = blocked(executor.shutdown)
    assert ending.thread.is_alive()
    held.gate.open()
    ending.value()
    assert [future.done() for future in futures] == [True] * 5
    assert_all_close((future.result(0) for future in futures), expect(held, *range(5)))


@pytest.mark.parametrize("queue_size", [1, None])
def test_shutdown_waits_for_a_map(make_executor: Any, hold: Any, queue_size: int | None) -> None:
    executor, held = make_executor(1), hold(**({} if queue_size is None else {"queue_size": queue_size}))
    held.hold()
    results = executor.map(held.predict, rows(*range(5)))
    ending = blocked(executor.shutdown)
    assert ending.thread.is_alive()
    held.gate.open()
    ending.value()
    assert seen(held) == [0, 1, 2, 3, 4]
    assert_all_close(results, expect(held, *range(5)))


def test_shutdown_without_waiting_returns_and_calls_are_answered(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold(queue_size=1)
    held.hold()
    futures = [executor.submit(held.predict, row(n)) for n in range(3)]
    results = executor.map(held.predict, rows(3, 4))
    executor.shutdown(wait=False)
    assert not any(future.done() for future in futures)
    held.gate.open()
    assert_all_close((future.result(HANG) for future in futures), expect(held, 0, 1, 2))
    assert_all_close(results, expect(held, 3, 4))


@pytest.mark.parametrize("queue_size", [1, None])
def test_a_shutdown_that_cancels_cancels_what_has_not_started(
    make_executor: Any, hold: Any, queue_size: int | None
) -> None:
    executor, held = make_executor(1), hold(**({} if queue_size is None else {"queue_size": queue_size}))
    running = held.hold()
    futures = [executor.submit(held.predict, row(n)) for n in range(4)]
    results = executor.map(held.predict, rows(4, 5))
    executor.shutdown(cancel_futures=True)
    assert [future.cancelled() for future in futures] == [True] * 4
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)
    held.gate.open()
    running.result(HANG)
    held.predict.close()
    assert seen(held) == []


def test_a_shutdown_that_cancels_leaves_the_predictors_other_callers_alone(make_executor: Any, hold: Any) -> None:
    executor, other, held = make_executor(1), make_executor(1), hold()
    held.hold()
    own, others = (
        executor.submit(held.predict, row(1)),
        [other.submit(held.predict, row(2)), held.predict.submit(row(3))],
    )
    executor.shutdown(cancel_futures=True)
    assert own.cancelled()
    held.gate.open()
    assert_all_close((future.result(HANG) for future in others), expect(held, 2, 3))


def test_after_a_shutdown_calls_are_refused(make_executor: Any, predict: Any) -> None:
    executor = make_executor(1)
    view = executor.options(priority=1)
    executor.shutdown()
    for refused in (executor, view):
        with pytest.raises(RuntimeError, match=REFUSAL):
            refused.submit(predict, row())
        with pytest.raises(RuntimeError, match=REFUSAL):
            refused.map(predict, rows(1))


def test_after_a_shutdown_a_buffered_map_reads_no_more(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold()
    held.gate.open()
    results = executor.map(held.predict, map(row, range(100)), buffersize=2)
    executor.shutdown()
    taken: list[Any] = []
    with pytest.raises(RuntimeError, match=REFUSAL):
        taken.extend(iter(lambda: next(results), None))
    held.predict.close()
    assert sorted(held.gate.seen) == [0, 1]


def test_leaving_the_context_waits_for_calls(make_executor: Any, predict: Any) -> None:
    with make_executor(1) as executor:
        futures = [executor.submit(predict, x) for x in rows(*range(50))]
    assert all(future.done() for future in futures)


def test_a_second_shutdown_waits_too(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold()
    held.hold()
    future = executor.submit(held.predict, row(1))
    executor.shutdown(wait=False)
    ending = blocked(executor.shutdown)
    assert ending.thread.is_alive()
    held.gate.open()
    ending.value()
    assert future.done()


def test_shutdown_waits_for_a_call_that_came_while_the_last_one_ended(make_executor: Any, hold: Any) -> None:
    """By a callback of the last one: nothing is pending for a moment."""
    held, executor = hold(), make_executor(1)
    second: concurrent.futures.Future[Any] = concurrent.futures.Future()
    first, asked = held.hold(), threading.Event()
    held.gate.watch = lambda x: None
    last = executor.submit(held.predict, row(1))
    again = Gate()

    def ask(done: Any) -> None:
        held.gate.watch = lambda x: again.pass_through()
        second.set_result(executor.submit(held.predict, row(2)))
        asked.set()

    last.add_done_callback(ask)
    held.gate.open()
    assert asked.wait(HANG)
    again.wait_entered()
    ending = blocked(executor.shutdown)
    assert ending.thread.is_alive()
    again.open()
    ending.value()
    assert second.result(HANG).done()
    first.result(HANG)


# --- initializers -----------------------------------------------------------------------------------------------------


def test_an_initializer_runs_before_any_call(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(4, initializer=gate.pass_through), hold()
    held.gate.open()
    future = executor.submit(held.predict, row(1))
    results = executor.map(held.predict, rows(2, 3))
    gate.wait_entered()
    assert held.gate.seen == []
    assert not future.done()
    gate.open()
    assert_close(future.result(HANG), *expect(held, 1))
    assert_all_close(results, expect(held, 2, 3))


def test_one_thread_is_enough_to_run_the_initializer(make_executor: Any, predict: Any) -> None:
    ran: list[int] = []
    executor = make_executor(4, initializer=ran.append, initargs=(1,))
    list(executor.map(predict, rows(*range(20))))
    [executor.submit(predict, x).result(HANG) for x in rows(1, 2)]
    assert ran == [1]
    assert len(executor._threads) == 1


def test_a_failing_initializer_fails_the_calls(make_executor: Any, hold: Any, gate: Gate, caplog: Any) -> None:
    def broken() -> None:
        gate.pass_through()
        raise Refused

    executor, held = make_executor(2, initializer=broken), hold()
    held.gate.open()
    future = executor.submit(held.predict, row(1))
    results = executor.map(held.predict, rows(2, 3))
    gate.open()
    with pytest.raises(concurrent.futures.thread.BrokenThreadPool):
        future.result(HANG)
    with pytest.raises(concurrent.futures.thread.BrokenThreadPool):
        next(results)
    with pytest.raises(concurrent.futures.thread.BrokenThreadPool):
        executor.submit(held.predict, row(4))
    assert held.gate.seen == []


def test_shutdown_waits_for_calls_that_wait_for_the_initializer(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(1, initializer=gate.pass_through), hold()
    held.gate.open()
    future = executor.submit(held.predict, row(1))
    ending = blocked(executor.shutdown)
    assert ending.thread.is_alive()
    gate.open()
    ending.value()
    assert_close(future.result(0), *expect(held, 1))


def test_a_shutdown_that_cancels_cancels_calls_that_wait_for_the_initializer(
    make_executor: Any, hold: Any, gate: Gate
) -> None:
    executor, held = make_executor(1, initializer=gate.pass_through), hold()
    future = executor.submit(held.predict, row(1))
    executor.shutdown(wait=False, cancel_futures=True)
    assert future.cancelled()
    gate.open()


def test_calls_are_answered_when_the_executor_is_dropped_during_its_initializer(
    make_executor: Any, hold: Any, gate: Gate
) -> None:
    executor, held = make_executor(1, initializer=gate.pass_through), hold()
    held.gate.open()
    future = executor.submit(held.predict, row(1))
    gate.wait_entered()
    del executor
    gc.collect()
    gate.open()
    assert_close(future.result(HANG), *expect(held, 1))


def test_calls_fail_when_the_executor_is_dropped_during_an_initializer_that_fails(
    make_executor: Any, hold: Any, gate: Gate, caplog: Any
) -> None:
    def broken() -> None:
        gate.pass_through()
        raise Refused

    executor, held = make_executor(1, initializer=broken), hold()
    future = executor.submit(held.predict, row(1))
    gate.wait_entered()
    del executor
    gc.collect()
    gate.open()
    assert isinstance(future.exception(HANG), concurrent.futures.thread.BrokenThreadPool)


def test_a_call_expires_while_the_initializer_runs(make_executor: Any, hold: Any, gate: Gate) -> None:
    executor, held = make_executor(1, initializer=gate.pass_through), hold()
    future = executor.options(deadline=0.02).submit(held.predict, row(1))
    assert isinstance(future.exception(HANG), TimeoutError)
    gate.open()


# --- dropped ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_size", [1, None])
def test_a_dropped_executor_completes_its_calls(make_executor: Any, hold: Any, queue_size: int | None) -> None:
    executor, held = make_executor(1), hold(**({} if queue_size is None else {"queue_size": queue_size}))
    held.hold()
    futures = [executor.submit(held.predict, row(n)) for n in range(5)]
    results = executor.map(held.predict, rows(5, 6))
    del executor
    gc.collect()
    held.gate.open()
    assert_all_close((future.result(HANG) for future in futures), expect(held, *range(5)))
    assert_all_close(results, expect(held, 5, 6))


def test_pending_calls_keep_no_executor_alive(make_executor: Any, hold: Any, no_gc: None) -> None:
    executor, held = make_executor(1), hold()
    held.hold()
    futures = [executor.submit(held.predict, row(n)) for n in range(2)]
    gone = freed(executor)
    del executor
    assert gone.wait(HANG)
    held.gate.open()
    concurrent.futures.wait(futures, HANG)


def test_pending_calls_keep_their_predictor_alive(make_executor: Any) -> None:
    executor = make_executor(1)
    model = build(MarkerModule)
    futures = [executor.submit(torchpool.wrap(model, example=row()), row(n)) for n in range(3)]
    gc.collect()
    assert_all_close((future.result(HANG) for future in futures), (eager(model, row(n)) for n in range(3)))


def test_an_executor_keeps_no_predictor_that_has_nothing_to_do(make_executor: Any) -> None:
    executor = make_executor(1)
    predict = torchpool.wrap(build(MarkerModule), example=row())
    executor.submit(predict, row()).result(HANG)
    list(executor.map(predict, rows(1, 2)))
    executor.shutdown()
    gone = freed(predict)
    del predict
    gc.collect()
    assert gone.wait(HANG)


def test_a_dropped_map_is_computed_none_the_less(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold()
    held.hold()
    executor.map(held.predict, rows(1, 2))
    gc.collect()
    held.gate.open()
    executor.shutdown()
    assert seen(held) == [1, 2]


# --- the end of the program -------------------------------------------------------------------------------------------

PROGRAM = """
from support import MarkerModule, build, row
import torch, torchpool
seen = []
class Noted(MarkerModule):
    def forward(self, x):
        for value in x[:, 0].tolist():
            seen.append(value)
        return super().forward(x)
predict = torchpool.wrap(build(Noted), example=row(), backend="python", prove="trust", queue_size=4)
seen.clear()
executor = ThreadPoolExecutor(2{options})
atexit.register(lambda: print(sorted(seen)))
{calls}
{end}
"""

CALLS = {
    "submit": "for n in range(20): executor.submit(predict, row(n))",
    "map": "executor.map(predict, [row(n) for n in range(20)])",
    "a kept map": "results = executor.map(predict, [row(n) for n in range(20)])",
}


@pytest.mark.parametrize("end", ["", "del executor", "executor.shutdown(wait=False)"])
@pytest.mark.parametrize("calls", CALLS)
def test_a_program_that_ends_completes_its_calls(calls: str, end: str) -> None:
    done = run_program(torchpool.ThreadPoolExecutor, PROGRAM.format(calls=CALLS[calls], end=end, options=""))
    assert_clean(done)
    assert done.stdout == f"{[float(n) for n in range(20)]}\n"


@pytest.mark.parametrize("end", ["", "del executor", "executor.shutdown(wait=False)"])
def test_a_program_that_ends_runs_the_initializer_and_the_calls(end: str) -> None:
    options = ", initializer=lambda: threading.Event().wait(0.2)"
    done = run_program(torchpool.ThreadPoolExecutor, PROGRAM.format(calls=CALLS["submit"], end=end, options=options))
    assert_clean(done)
    assert done.stdout == f"{[float(n) for n in range(20)]}\n"


def test_a_program_whose_initializer_fails_ends() -> None:
    options = ", initializer=lambda: threading.Event().wait(0.2) or 1 / 0"
    program = PROGRAM.format(calls=CALLS["map"], end="del executor", options=options)
    done = run_program(torchpool.ThreadPoolExecutor, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
