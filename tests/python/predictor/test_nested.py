"""Calls from inside calls: one worker and a queue of one are enough for all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import HANG, MARK, POISON, MarkerModule, assert_close, build, eager, row, run_threads
from torch import nn

import torchpool

Inner = Callable[[torchpool.Predictor, torch.Tensor], torch.Tensor]


def wait_for_all(predict: torchpool.Predictor, x: torch.Tensor) -> torch.Tensor:
    futures = [predict.submit(part) for part in x.split(1)]
    return torch.cat([future.result(HANG) for future in futures])


def await_it(predict: torchpool.Predictor, x: torch.Tensor) -> torch.Tensor:
    return asyncio.run(predict.acall(x))


WAYS: dict[str, Inner] = {
    "calls": lambda predict, x: predict(x),
    "submits and waits": lambda predict, x: predict.submit(x).result(HANG),
    "submits many": wait_for_all,
    "maps": lambda predict, x: torch.cat(list(predict.map(x.split(1)))),
    "maps unordered": lambda predict, x: torch.cat(list(predict.map(x.split(1), ordered=False))),
    "awaits": await_it,
    "calls at a priority": lambda predict, x: predict.options(priority=5)(x),
    "calls with a deadline": lambda predict, x: predict.options(deadline=HANG)(x),
}


class Outer(nn.Module):
    """Asks another predictor, then doubles."""

    def __init__(self) -> None:
        super().__init__()
        self.ask: Callable[[torch.Tensor], torch.Tensor] = lambda x: x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ask(x) * 2


class Countdown(nn.Module):
    """Calls itself, through its predictor, as often as its input says."""

    predict: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.predict is None or float(x.max()) < 1:
            return x
        return self.predict(x - 1) + 1


def outer_around(
    inner: torchpool.Predictor, way: str, runtime: torchpool.Runtime, **options: Any
) -> torchpool.Predictor:
    model = build(Outer)
    model.ask = lambda x: WAYS[way](inner, x)
    return torchpool.wrap(model, runtime=runtime, queue_size=1, **options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{}, {"batch": False}], ids=["merging", "alone"])
def test_a_model_may_use_another_predictor(way: str, options: dict[str, Any], runtime: torchpool.Runtime) -> None:
    inner = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, queue_size=1)
    outer = outer_around(inner, way, runtime, **options)
    expected = [eager(inner.model, row(n)) * 2 for n in range(24)]
    for n, result in enumerate(outer.map(map(row, range(24)))):
        assert_close(result, expected[n])
    results = run_threads(8, lambda number: [outer(row(n)) for n in range(number, 24, 8)])
    for number in range(8):
        for result, own in zip(results[number], expected[number::8], strict=True):
            assert_close(result, own)


def test_both_predictors_may_be_called_from_outside_too(runtime: torchpool.Runtime) -> None:
    inner = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, queue_size=1)
    outer = outer_around(inner, "submits and waits", runtime)

    def work(number: int) -> None:
        for n in range(20):
            predict, factor = (outer, 2) if number % 2 else (inner, 1)
            assert_close(predict(row(n)), eager(inner.model, row(n)) * factor)
            assert_close(predict.submit(row(n)).result(HANG), eager(inner.model, row(n)) * factor)

    run_threads(8, work)


@pytest.mark.parametrize("first", ["call", "submit", "map"])
def test_a_model_may_call_itself(first: str, runtime: torchpool.Runtime) -> None:
    model = Countdown().eval()
    predict = torchpool.wrap(model, example=row(0), runtime=runtime, queue_size=1)
    model.predict = predict
    x = row(6)
    result = {
        "call": lambda: predict(x),
        "submit": lambda: predict.submit(x).result(HANG),
        "map": lambda: next(predict.map([x])),
    }[first]()
    assert_close(result, x)
    model.predict = None  # the cycle would keep both until the collector comes


def test_an_error_of_the_inner_call_is_the_outer_calls(runtime: torchpool.Runtime) -> None:
    inner = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, queue_size=1)
    outer = outer_around(inner, "submits and waits", runtime, example=row())
    results = list(outer.map((row(POISON if n == 3 else n) for n in range(8)), return_exceptions=True))
    assert [n for n, result in enumerate(results) if isinstance(result, ValueError)] == [3]


def test_a_scripted_model_serves_the_inner_calls_of_a_python_one(runtime: torchpool.Runtime) -> None:
    script = torch.jit.script(nn.Sequential(nn.Flatten(), nn.ReLU()).eval())
    inner = torchpool.wrap(script, example=row(), runtime=runtime, queue_size=1)
    outer = outer_around(inner, "maps", runtime)
    assert inner.explain().backend == "torchscript"
    assert_close(list(outer.map(map(row, range(8)))), [row(n) * 2 for n in range(8)])


@pytest.mark.parametrize("way", WAYS)
def test_a_callback_may_use_any_predictor_of_the_runtime(way: str, hold: Any) -> None:
    held = hold(queue_size=1)
    first = held.hold()
    queued = held.predict.submit(row(1))  # the queue is full when the callback comes
    results: list[Any] = []
    finished = threading.Event()

    def callback(done: Any) -> None:
        try:
            results.append(WAYS[way](held.predict, row(2)))
        finally:
            finished.set()

    first.add_done_callback(callback)
    held.gate.open()
    assert finished.wait(HANG)
    assert_close(results, [eager(held.model, row(2))])
    assert queued.result(HANG).shape == (1, 3)


def test_callbacks_of_callbacks_all_run(hold: Any) -> None:
    held = hold(queue_size=1)
    finished = threading.Event()

    def next_one(n: int) -> Callable[[Any], None]:
        def callback(done: Any) -> None:
            if n == 20:
                finished.set()
            else:
                held.predict.submit(row(n)).add_done_callback(next_one(n + 1))

        return callback

    held.hold().add_done_callback(next_one(0))
    held.gate.open()
    assert finished.wait(HANG)


def test_a_model_that_learns_on_a_worker_answers_there(runtime: torchpool.Runtime) -> None:
    inner = torchpool.wrap(build(MarkerModule), runtime=runtime, queue_size=1)  # nothing is known of it yet
    outer = outer_around(inner, "calls", runtime, batch=False)
    for n in range(2):  # in the first, which is looked at, it runs under a torch mode, and nothing is learned
        assert_close(outer.submit(row(n)).result(HANG), eager(inner.model, row(n)) * 2)
    assert inner.explain().contracts


def test_a_callable_that_runs_alone_may_use_a_predictor(runtime: torchpool.Runtime) -> None:
    inner = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, queue_size=1)
    outer = torchpool.wrap(lambda x: inner.submit(x).result(HANG), runtime=runtime, queue_size=1)
    futures = [outer.submit(row(n)) for n in range(8)]
    assert_close([future.result(HANG) for future in futures], [eager(inner.model, row(n)) for n in range(8)])


def test_a_waiting_call_of_another_thread_does_not_keep_a_nested_one_waiting(hold: Any) -> None:
    held = hold(queue_size=1)
    inner = torchpool.wrap(build(MarkerModule), example=row(), runtime=held.runtime, queue_size=1)
    nested: list[torch.Tensor] = []
    held.gate.watch = lambda x: nested.append(inner(row(2)))
    first, queued = held.hold(), inner.submit(row(1))
    second = held.predict.submit(row(3))  # inner's queue is full when a worker calls it from here
    held.gate.open()
    assert_close([f.result(HANG) for f in (first, second)], [eager(held.model.linear, row(n)) for n in (MARK, 3)])
    assert queued.result(HANG).shape == (1, 3)
    assert_close(nested, [eager(inner.model, row(2))] * 2)


class Locked(nn.Module):
    """Waits for a lock that somebody else may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.came = threading.Event()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.came.set()
        with self.lock:
            return x * 2


@pytest.mark.parametrize("prove", ["trust", "auto"])
@torch.no_grad()
def test_a_lone_call_that_waits_holds_nobody_up(prove: Any) -> None:
    """It waits for a lock whose holder calls another predictor."""
    model, runtime = Locked().eval(), torchpool.Runtime(1)
    waits = torchpool.wrap(model, backend="python", prove=prove, runtime=runtime)
    other = torchpool.wrap(build(MarkerModule), backend="python", prove="trust", runtime=runtime)
    for predict in (waits, other):
        predict(row(1))
    model.came.clear()
    results: list[torch.Tensor] = []
    with model.lock:
        caller = threading.Thread(target=lambda: results.append(waits(row(2))), daemon=True)
        caller.start()
        assert model.came.wait(HANG)
        assert_close(other.submit(row(3)).result(HANG), eager(other.model, row(3)))
    caller.join(HANG)
    assert_close(results[0], row(2) * 2)
    runtime.close()
