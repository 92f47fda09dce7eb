"""Calls that share no batch: side by side, unless they have state; those that wait on threads without a core."""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support import HANG, Gate, assert_all_close, assert_close, build, draws, eager, row, run_threads
from torch import nn

import torchpool

TOGETHER = 5  # calls that need each other, as many as a machine with one core has threads for


class Meeting:
    """Whoever comes waits a moment, as for another service; those with a number above 0 until all of them are there."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(TOGETHER)

    def come(self, number: float) -> None:
        time.sleep(0.001)  # what it waits for; the test waits for nothing by it
        if number > 0:
            self.barrier.wait(HANG)


@pytest.fixture
def meeting() -> Meeting:
    return Meeting()


def waiting_function(meeting: Meeting) -> Callable[[torch.Tensor], torch.Tensor]:
    def fetch(x: torch.Tensor) -> torch.Tensor:
        meeting.come(float(x[0, 0]))
        return x * 2

    return fetch


async def gathered(predict: Any, xs: list[Any]) -> list[Any]:
    return await asyncio.gather(*[predict.acall(x) for x in xs])


def through_executor(predict: Any, xs: list[Any]) -> list[Any]:
    with torchpool.ThreadPoolExecutor(1) as pool:
        return list(pool.map(predict, xs))


WAYS: dict[str, Callable[[Any, list[Any]], list[Any]]] = {
    "submit": lambda predict, xs: [future.result(HANG) for future in [predict.submit(x) for x in xs]],
    "map": lambda predict, xs: list(predict.map(xs)),
    "acall": lambda predict, xs: asyncio.run(gathered(predict, xs)),
    "executor": through_executor,
    "deadline": lambda predict, xs: list(predict.options(deadline=HANG).map(xs)),
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@ways
def test_a_function_that_waits_runs_on_more_threads_than_there_are_workers(
    runtime: torchpool.Runtime, meeting: Meeting, way: Any
) -> None:
    predict = torchpool.wrap(waiting_function(meeting), runtime=runtime)
    assert_close(predict.submit(row(0)).result(HANG), row(0) * 2)  # shows that it waits
    xs = [row(number) for number in range(1, TOGETHER + 1)]
    assert_all_close(way(predict, xs), [x * 2 for x in xs])
    assert "run alone, side by side" in str(predict.explain())


@ways
def test_so_does_a_module_that_is_not_to_be_merged(runtime: torchpool.Runtime, meeting: Meeting, way: Any) -> None:
    class Waits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            meeting.come(float(x[0, 0]))
            return self.linear(x)

    model = build(Waits)
    predict = torchpool.wrap(model, batch=False, runtime=runtime)
    predict.submit(row(0)).result(HANG)  # shows that it has no state
    predict.submit(row(0)).result(HANG)  # and that it waits
    xs = [row(number) for number in range(1, TOGETHER + 1)]
    results = way(predict, xs)
    assert_all_close(results, [eager(model.linear, x) for x in xs])
    assert "run alone, side by side: merging is off" in str(predict.explain())


@ways
def test_so_do_calls_without_tensors(runtime: torchpool.Runtime, meeting: Meeting, way: Any) -> None:
    def length(text: str) -> int:
        meeting.come(len(text))
        return len(text)

    predict = torchpool.wrap(length, runtime=runtime)
    assert predict.submit("").result(HANG) == 0
    assert way(predict, ["a" * number for number in range(1, TOGETHER + 1)]) == list(range(1, TOGETHER + 1))


def test_what_waits_leaves_the_worker_to_others(runtime: torchpool.Runtime, meeting: Meeting) -> None:
    waits = torchpool.wrap(waiting_function(meeting), runtime=runtime)
    waits.submit(row(0)).result(HANG)
    held = [waits.submit(row(1)) for _ in range(TOGETHER - 1)]
    other = torchpool.wrap(build(lambda: nn.Linear(4, 3)), runtime=runtime, example=row())
    assert_close(other.submit(row(2)).result(HANG), eager(other.model, row(2)))
    assert not any(future.done() for future in held)
    waits.submit(row(1)).result(HANG)
    assert_all_close([future.result(HANG) for future in held], [row(1) * 2] * len(held))


def test_calls_made_by_what_waits_do_not_wait_for_a_thread(runtime: torchpool.Runtime, meeting: Meeting) -> None:
    inner = torchpool.wrap(build(lambda: nn.Linear(4, 3)), runtime=runtime, example=row())
    inside: list[bool] = []

    def outer(x: torch.Tensor) -> torch.Tensor:
        meeting.come(float(x[0, 0]))
        inside.append(torchpool._core.on_worker_thread())
        result: torch.Tensor = inner.submit(x).result(HANG)
        return result

    predict = torchpool.wrap(outer, runtime=runtime)
    predict.submit(row(0)).result(HANG)
    xs = [row(number) for number in range(1, TOGETHER + 1)]
    assert_all_close(predict.map(xs), [eager(inner.model, x) for x in xs])
    assert all(inside)


def test_what_waits_raises_for_itself_only(runtime: torchpool.Runtime, meeting: Meeting) -> None:
    def fetch(x: torch.Tensor) -> torch.Tensor:
        meeting.come(float(x[0, 0]))
        if x[0, 0] == 2:
            raise KeyError("nothing there")
        return x

    predict = torchpool.wrap(fetch, runtime=runtime)
    predict.submit(row(0)).result(HANG)
    futures = [predict.submit(row(number)) for number in range(1, TOGETHER + 1)]
    with pytest.raises(KeyError, match="nothing there"):
        futures.pop(1).result(HANG)
    assert_all_close([future.result(HANG) for future in futures], [row(number) for number in (1, 3, 4, 5)])
    predict.close()
    stats = predict.stats()
    assert (stats["failed"], stats["resolved"]) == (1, stats["accepted"])


@pytest.mark.parametrize("close", ["predictor", "runtime"])
def test_the_end_waits_for_what_waits(close: str) -> None:
    runtime, gate = torchpool.Runtime(1), Gate()

    def fetch(x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.001)  # what it waits for
        if x[0, 0] > 0:
            gate.pass_through()
        return x

    predict = torchpool.wrap(fetch, runtime=runtime)
    predict.submit(row(0)).result(HANG)
    futures = [predict.submit(row(number)) for number in (1, 2, 3)]
    gate.wait_entered(3)
    ending = threading.Thread(target=predict.close if close == "predictor" else runtime.close, daemon=True)
    ending.start()
    gate.open()
    ending.join(HANG)
    assert not ending.is_alive()
    assert_all_close([future.result(HANG) for future in futures], [row(number) for number in (1, 2, 3)])
    runtime.close()


class Counts(nn.Module):
    """Adds how often it was called before."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.number = 0
        if where == "parameter":
            self.count: Any = nn.Parameter(torch.zeros(()), requires_grad=False)
        elif where != "attribute":
            self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.where == "attribute":
            self.number += 1
            return x + (self.number - 1)
        result = x + self.count
        if self.where == "replaced buffer":
            self.count = self.count + 1
        else:
            self.count += 1
        return result


@ways
@pytest.mark.parametrize("where", ["buffer", "replaced buffer", "parameter", "attribute"])
def test_a_model_with_state_runs_in_order_of_arrival(where: str, way: Any) -> None:
    predict = torchpool.wrap(build(lambda: Counts(where)), batch=False)
    xs = draws(40, 1, 4)
    assert_all_close(way(predict, xs), [x + number for number, x in enumerate(xs)])
    assert "run alone, one at a time, in order (model is stateful: " in str(predict.explain())


@pytest.mark.parametrize("generator", ["torch", "own", "python", "numpy"])
def test_a_model_that_draws_runs_in_order_of_arrival(generator: str, seeded: None) -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if generator == "torch":
                return x + torch.rand(())
            if generator == "own":
                return x + torch.rand((), generator=self.generator)
            return x + (random.random() if generator == "python" else np.random.random())

    def seeded_model() -> Draws:
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        return Draws().eval()

    states = random.getstate(), np.random.get_state()
    try:
        xs = draws(40, 1, 4)
        expected = [eager(model, x) for model in [seeded_model()] for x in xs]
        predict = torchpool.wrap(seeded_model(), batch=False)
        assert_all_close(predict.map(xs), expected)
        assert re.search("in order .model draws (or seeds )?random numbers", str(predict.explain()))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def test_looking_runs_no_call_twice() -> None:
    runs: list[float] = []

    class Sees(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            runs.append(float(x[0, 0]))
            return x

    predict = torchpool.wrap(build(Sees), batch=False)
    run_threads(4, lambda number: predict(row(number)))
    list(predict.map([row(number) for number in range(4, 8)]))
    assert sorted(runs) == list(range(8))


def test_a_module_with_arguments_of_other_types_is_looked_at_too() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def forward(self, words: set[str]) -> int:
            self.count += 1
            return self.count

    predict = torchpool.wrap(build(Counter))
    assert list(predict.map([{"a"}] * 20)) == list(range(1, 21))
    (note,) = [note for note in predict.explain().notes if "cannot be merged" in note]
    assert "one at a time, in order (model is stateful: attribute 'count' changed)" in note


def test_what_is_refreshed_is_looked_at_anew() -> None:
    class Mode(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plan = {"counts": True}
            self.count = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.plan["counts"]:
                self.count += 1
            return x

    model = build(Mode)
    predict = torchpool.wrap(model, batch=False)
    predict(row())
    assert "in order (model is stateful" in str(predict.explain())
    model.plan["counts"] = False
    predict.refresh()
    predict(row())
    assert "run alone, side by side" in str(predict.explain())


def test_other_threads_wait_for_the_first_run_of_a_module_that_is_not_probed() -> None:
    """It may turn out to have state, which runs beside it would see half written."""
    gate, inside, most = Gate(), [0], [0]

    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def forward(self, words: set[str]) -> int:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            if self.count == 0:
                gate.pass_through()
            self.count += 1
            inside[0] -= 1
            return self.count

    predict = torchpool.wrap(build(Counter))
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(predict({"a"})), daemon=True) for _ in range(4)]
    threads[0].start()
    gate.wait_entered()
    for thread in threads[1:]:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(HANG)
    assert sorted(results) == [1, 2, 3, 4] and most == [1]


def test_state_in_a_list_is_seen() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[float] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(float(x[0, 0]))
            return x + len(self.seen)

    predict = torchpool.wrap(build(Remembers), batch=False)
    xs = draws(20, 1, 4)
    assert_all_close(predict.map(xs), [x + number for number, x in enumerate(xs, 1)])
    assert "in order (model is stateful: attribute 'seen' changed)" in str(predict.explain())


def test_draws_of_other_threads_are_not_taken_for_the_models(runtime: torchpool.Runtime, seeded: None) -> None:
    gate = Gate()

    class Waits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate.pass_through()
            return x

    predict = torchpool.wrap(build(Waits), batch=False, runtime=runtime)
    future = predict.submit(row(1))
    gate.wait_entered()
    torch.rand(3)
    gate.open()
    future.result(HANG)
    assert "run alone, side by side" in str(predict.explain())


def test_calls_that_wait_share_the_cores(runtime: torchpool.Runtime, meeting: Meeting) -> None:
    threads: list[int] = []

    def fetch(x: torch.Tensor) -> torch.Tensor:
        meeting.come(float(x[0, 0]))
        threads.append(torch.get_num_threads())
        return x

    predict = torchpool.wrap(fetch, runtime=runtime)
    predict.submit(row(0)).result(HANG)
    own = torch.get_num_threads()
    list(predict.map([row(number) for number in range(1, TOGETHER + 1)]))
    assert len(threads) == TOGETHER + 1
    assert min(threads[1:]) <= max(1, own // 2) and torch.get_num_threads() == own


def test_arguments_that_cannot_be_taken_apart_keep_calls_on_the_threads_whose_state_is_read() -> None:
    kept = threading.local()

    class Tells(nn.Module):
        def forward(self, words: set[str]) -> str:
            return f"{kept.name} {threading.get_ident()}"

    predict = torchpool.wrap(build(Tells))

    def tell(number: int) -> list[str]:
        kept.name = f"thread {number}"
        own = f"{kept.name} {threading.get_ident()}"
        told = [predict({"a"}), predict.submit({"b"}).result(HANG), *predict.map([{"c"}] * 3)]
        return [text for text in told if text != own]

    assert run_threads(4, tell) == [[]] * 4
    assert "run alone, each on the thread that makes it" in str(predict.explain())
