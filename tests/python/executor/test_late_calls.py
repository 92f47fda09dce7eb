"""ex.submit(predictor, ...): calls that a predictor first has to learn from."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import pytest
import torch
from executor_support import blocked, wait_until
from stream_support import drain, pending
from support import (
    HANG,
    Gate,
    MarkerModule,
    assert_all_close,
    assert_close,
    build,
    row,
)

import torchpool
import torchpool.call.futures

TORCHPOOL_ONLY = True  # to the standard one a predictor is a function as any other

SOON = 0.02  # seconds; a deadline that is to pass


@pytest.fixture
def executor(make_executor: Any) -> torchpool.ThreadPoolExecutor:
    return make_executor(1)


def submit(executor: Any, calls: Any, *values: float) -> list[Any]:
    return [executor.submit(calls, row(value)) for value in values]


class Learned(torch.nn.Module):
    """Tells when it is run for the first time, and waits there."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.gate.pass_through()
        return x * 2


def test_a_new_kind_of_call_is_learned_on_another_thread(executor: Any, gate: Gate) -> None:
    predict = torchpool.wrap(Learned(gate).eval())
    future = executor.submit(predict, row(3))  # which would wait at the gate if it were learned from here
    gate.wait_entered()
    gate.open()
    assert_close(future.result(HANG), row(3) * 2)


def test_submit_waits_for_no_predictor_that_learns_and_keeps_the_order(executor: Any, gate: Gate) -> None:
    predict = torchpool.wrap(Learned(gate).eval(), backend="python")
    futures = submit(executor, predict, *range(20))
    gate.wait_entered()
    futures += submit(executor, predict, *range(20, 40))
    assert pending(executor) == 40
    assert not any(future.done() for future in futures)
    other = torchpool.wrap(build(MarkerModule), example=row())
    assert submit(executor, other, 1)[0].result(HANG).shape == (1, 3)  # one that learns holds up no other
    gate.open()
    assert_all_close((future.result(HANG) for future in futures), (row(n) * 2 for n in range(40)))


def test_a_call_that_waits_for_a_predictor_that_learns_may_be_cancelled(executor: Any, gate: Gate) -> None:
    predict = torchpool.wrap(Learned(gate).eval(), backend="python")
    first, second, third = submit(executor, predict, 1, 2, 3)
    gate.wait_entered()
    assert first.cancel()
    assert second.cancel()
    assert {first, second} == concurrent.futures.wait([first, second], HANG).done
    gate.open()
    assert_close(third.result(HANG), row(3) * 2)
    drain(executor)


def test_a_deadline_passes_while_a_predictor_learns(executor: Any, gate: Gate) -> None:
    predict = torchpool.wrap(Learned(gate).eval(), backend="python")
    futures = submit(executor, predict.options(deadline=SOON), 1, 2)
    gate.wait_entered()
    for future in futures:
        with pytest.raises(TimeoutError, match="deadline"):
            future.result(HANG)
    drain(executor)
    gate.open()


def test_calls_of_a_predictor_that_is_closed_while_it_learns_fail(executor: Any, gate: Gate) -> None:
    predict = torchpool.wrap(Learned(gate).eval(), backend="python")
    futures = submit(executor, predict, 1, 2)
    gate.wait_entered()
    predict.close(wait=False)
    gate.open()
    assert [type(future.exception(HANG)) for future in futures] == [torchpool.Closed] * 2
    drain(executor)
    assert pending(executor) == 0


def test_shutdown_waits_for_a_predictor_that_learns(executor: Any, gate: Gate) -> None:
    predict = torchpool.wrap(Learned(gate).eval(), backend="python")
    future = executor.submit(predict, row(1))
    gate.wait_entered()
    ending = blocked(executor.shutdown)
    assert ending.thread.is_alive()
    gate.open()
    ending.value()
    assert_close(future.result(0), row(1) * 2)


def test_the_thread_that_learns_ends_with_its_calls_and_another_starts(executor: Any) -> None:
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "torchpool-late-calls"]

    predict = torchpool.wrap(build(MarkerModule))
    for width in (4, 4):
        assert submit(executor, predict, 1)[0].result(HANG).shape == (1, 3)
        assert isinstance(executor.submit(predict, torch.ones(1, width + 1)).exception(HANG), Exception)
        assert all(thread.daemon for thread in threads())
        wait_until(lambda: not threads())
