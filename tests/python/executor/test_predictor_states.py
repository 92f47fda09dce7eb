"""Predictors' calls of an executor are made in the state of the thread that makes them: context, autocast, grad."""

from __future__ import annotations

import contextvars
from typing import Any

import pytest
import torch
from stream_support import drain, flood, in_map, rows, submitted
from support import HANG, Gate, MarkerModule, assert_all_close, build, draw, eager, row
from torch import nn

import torchpool

TORCHPOOL_ONLY = True  # to the standard one a predictor is a function as any other
WAYS = pytest.mark.parametrize("start", [submitted, in_map])


@pytest.fixture
def executor(make_executor: Any) -> torchpool.ThreadPoolExecutor:
    return make_executor(1)


def assert_results(outcomes: list[Any], held: Any, values: Any) -> None:
    assert_all_close(outcomes, (eager(held.model.linear, row(value)) for value in values))


variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


class Sees(nn.Module):
    """Multiplies by the context variable."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * variable.get()


@WAYS
def test_calls_keep_the_context_they_were_made_in(executor: Any, start: Any, runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Sees().eval(), example=row(), runtime=runtime, queue_size=1, backend="python")
    token = variable.set(3)
    outcomes = start(executor, predict, list(range(300)))
    variable.reset(token)
    assert_all_close(outcomes(), [row(n) * 3 for n in range(300)])
    drain(executor)


@WAYS
@pytest.mark.parametrize("calls_are_held", [True, False])
def test_calls_keep_autocast(
    make_executor: Any, gate: Gate, start: Any, runtime: torchpool.Runtime, calls_are_held: bool
) -> None:
    model = build(lambda: nn.Linear(4, 3))
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime, queue_size=1)
    executor = make_executor(1, initializer=gate.pass_through) if calls_are_held else make_executor(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outcomes = start(executor, predict, list(range(200)))
        expected = [eager(model, row(n)).dtype for n in range(200)]
    others = start(executor, predict, list(range(200)))
    gate.open()
    assert [outcome.dtype for outcome in outcomes()] == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):  # of who iterates: not of who made the calls
        assert {outcome.dtype for outcome in others()} == {torch.float32}


def test_inputs_that_require_grad_are_taken_under_no_grad(executor: Any, hold: Any) -> None:
    held = hold(queue_size=1)
    flood(held)
    inputs = [row(n).requires_grad_() for n in range(300)]
    with torch.no_grad():
        futures = [executor.submit(held.predict, x) for x in inputs]
        results = executor.map(held.predict, inputs)
    held.gate.open()
    assert_results([future.result(HANG) for future in futures], held, range(300))
    assert_results(list(results), held, range(300))


def test_under_a_torch_mode_calls_run_where_they_are_made(executor: Any) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    with torch.device("cpu"):
        results = executor.map(predict, rows(*range(300)))
        assert predict.stats()["inline"] == 300
        future = executor.submit(predict, row(1))
        assert future.done()
    assert_all_close(results, (eager(predict.model, row(n)) for n in range(300)))


@pytest.mark.parametrize("buffersize", [None, 5])
def test_a_map_is_sent_in_its_own_state_whoever_iterates(
    executor: Any, runtime: torchpool.Runtime, buffersize: int | None
) -> None:
    predict = torchpool.wrap(Sees().eval(), example=row(), runtime=runtime, queue_size=1, backend="python")
    token = variable.set(3)
    results = executor.map(predict, rows(*range(400)), buffersize=buffersize)
    variable.reset(token)
    with torch.device("cpu"):  # a mode that no other thread has
        assert_all_close(results, [row(n) * 3 for n in range(400)])
    assert predict.stats()["inline"] == 0
