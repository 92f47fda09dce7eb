"""Calls that are waited for are learned from once that pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support import HANG, Counter, MarkerModule, assert_close, build, eager, row, run_threads
from torch import nn

import torchpool
from torchpool.predictor import put_off

NOT_YET = "not learned from yet, and run alone"


@pytest.fixture(autouse=True)
def _never_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(put_off, "WORTH_SECONDS", 1e6)


def in_thread(work: Callable[[], Any]) -> Any:
    return run_threads(1, lambda number: work())[0]


@torch.no_grad()
def test_a_few_calls_of_threads_are_not_learned_from(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(MarkerModule), runtime=runtime)
    results = run_threads(8, lambda number: predict(row(number)))
    for number, result in enumerate(results):
        assert_close(result, eager(predict.model, row(number)))
    assert predict.explain().contracts == ()
    assert NOT_YET in str(predict.explain())


@torch.no_grad()
def test_what_has_taken_long_enough_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(put_off, "WORTH_SECONDS", 1e-9)
    predict = torchpool.wrap(build(MarkerModule))
    in_thread(lambda: predict(row(1)))
    assert NOT_YET in str(predict.explain())
    in_thread(lambda: predict(row(2)))
    assert [contract.mode for contract in predict.explain().contracts] == ["merge"]
    assert NOT_YET not in str(predict.explain())


@torch.no_grad()
def test_many_short_calls_are_learned_from() -> None:
    predict = torchpool.wrap(build(MarkerModule))
    in_thread(lambda: [predict(row(1)) for _ in range(10_001)])
    assert [contract.mode for contract in predict.explain().contracts] == ["merge"]


WAITING: dict[str, Callable[[torchpool.Predictor], list[torch.Tensor]]] = {
    "main thread": lambda predict: [predict(row(number)) for number in range(20)],
    "a thread": lambda predict: in_thread(lambda: [predict(row(number)) for number in range(20)]),
}


@torch.no_grad()
@pytest.mark.parametrize("way", WAITING.values(), ids=list(WAITING))
def test_calls_that_are_waited_for_are_put_off(way: Callable[[torchpool.Predictor], list[torch.Tensor]]) -> None:
    predict = torchpool.wrap(build(MarkerModule))
    for number, result in enumerate(way(predict)):
        assert_close(result, eager(predict.model, row(number)))
    assert predict.explain().contracts == ()
    assert NOT_YET in str(predict.explain())


@torch.no_grad()
@pytest.mark.parametrize("way", WAITING.values(), ids=list(WAITING))
def test_their_time_counts_wherever_they_run(
    way: Callable[[torchpool.Predictor], list[torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_off, "WORTH_SECONDS", 1e-9)
    predict = torchpool.wrap(build(MarkerModule))
    way(predict)
    predict(row(1))
    assert [contract.mode for contract in predict.explain().contracts] == ["merge"]


WAYS: dict[str, Callable[[torchpool.Predictor], Any]] = {
    "submit": lambda predict: in_thread(lambda: predict.submit(row(2)).result()),
    "deadline": lambda predict: in_thread(lambda: predict.options(deadline=60).submit(row(2)).result()),
}


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_other_calls_have_it_learned(way: Callable[[torchpool.Predictor], Any]) -> None:
    predict = torchpool.wrap(build(MarkerModule))
    in_thread(lambda: predict(row(1)))
    way(predict)
    settle(predict)
    assert [contract.mode for contract in predict.explain().contracts] == ["merge"]


def settle(predict: torchpool.Predictor) -> None:
    """Who learns behind another call is done some time."""
    while predict._learner.kinds == {}:
        predict.submit(row(0)).result()


@torch.no_grad()
@pytest.mark.graphs
def test_ready_has_it_learned_and_captured() -> None:
    predict = torchpool.wrap(build(Plain))
    in_thread(lambda: predict(row(1)))
    assert predict.ready(120)
    assert predict.explain().backend == "graph"
    assert_close(predict(row(2)), eager(predict.model, row(2)))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x)
        return result


class Keeps(nn.Module):
    """Hands out memory that it writes to in its next call."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = {"y": torch.zeros(1, 4)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.kept["y"].copy_(x * 2)


class OfAnArray(nn.Module):
    """Hands out an array's memory, which it writes to in its next call."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = np.zeros((1, 4), np.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept[:] = x.numpy() * 2
        return torch.from_numpy(self.kept)


class KeepsLast(nn.Module):
    """Writes to its last result in its next call."""

    def __init__(self) -> None:
        super().__init__()
        self.last: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for one in self.last:
            one.zero_()
        result = x * 2
        self.last[:] = [result.view(-1)]
        return result


@torch.no_grad()
@pytest.mark.parametrize("way", ["calls", "map", "submit"])
@pytest.mark.parametrize("model", [Keeps, OfAnArray, KeepsLast])
def test_results_are_the_callers_own(model: type[nn.Module], way: str) -> None:
    predict = torchpool.wrap(build(model))
    inputs = [row(number) for number in range(1, 5)]
    ways: dict[str, Callable[[], list[torch.Tensor]]] = {
        "calls": lambda: in_thread(lambda: [predict(one) for one in inputs]),
        "map": lambda: list(predict.map(inputs)),
        "submit": lambda: [future.result() for future in [predict.submit(one) for one in inputs]],
    }
    for result, one in zip(ways[way](), inputs, strict=True):
        assert_close(result, one * 2)


class CountsInABuffer(nn.Module):
    """Gives the number of the call."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x * 0 + self.count


@torch.no_grad()
def test_a_model_with_state_is_learned_when_no_call_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is put back to what it was before the probes: what a call beside them counted would be lost."""
    monkeypatch.setattr(put_off, "WORTH_SECONDS", 1e-3)
    model = build(CountsInABuffer)
    predict = torchpool.wrap(model)

    def some(number: int) -> list[torch.Tensor]:
        if number % 2:
            return list(predict.map([row(1)] * 100))
        return [predict(row(1)) for _ in range(100)]

    counts = sorted(int(result[0, 0]) for part in run_threads(6, some) for result in part)
    assert counts == list(range(1, 601))
    assert int(model.count) == 600
    [kind] = predict._learner.kinds.values()
    assert kind.route == "serial"


@torch.no_grad()
def test_a_module_that_changes_is_not_put_off_again_and_again() -> None:
    predict = torchpool.wrap(build(Counter))
    in_thread(lambda: [predict(row(1)) for _ in range(5)])
    assert NOT_YET not in str(predict.explain())
    [kind] = predict._learner.kinds.values()
    assert kind.route == "serial"


@torch.no_grad()
@pytest.mark.parametrize("stated", [{"example": row()}, {"batch": {"x": 0}}, {"batch": False}], ids=str)
def test_nothing_is_put_off_where_the_user_has_said_how_calls_are_served(stated: dict[str, Any]) -> None:
    predict = torchpool.wrap(build(MarkerModule), **stated)
    in_thread(lambda: predict(row(1)))
    assert NOT_YET not in str(predict.explain())


class Counting(nn.Module):
    """Counts its calls in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        calls = self.calls
        time.sleep(0)  # another thread may come in between
        self.calls = calls + 1
        return x * 0 + self.calls


@torch.no_grad()
def test_a_model_that_sets_attributes_is_learned_at_once() -> None:
    """It may have state: its calls are then to run one at a time, and none while it is probed."""
    model = Counting().eval()
    predict = torchpool.wrap(model)
    results = run_threads(8, lambda number: [int(predict(row(1))[0, 0]) for _ in range(10)])
    assert sorted(result for part in results for result in part) == list(range(1, 81))
    assert model.calls == 80


class Exiting(nn.Module):
    """Ends the program for what is no number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.isnan().any()):
            raise SystemExit("no number")
        return x * 2


@torch.no_grad()
def test_an_exit_that_no_caller_asked_for_ends_nobody() -> None:
    predict = torchpool.wrap(Exiting().eval())
    with pytest.raises(SystemExit, match="no number"):
        in_thread(lambda: predict(row(float("nan"))))
    assert_close(predict.submit(row(2)).result(HANG), row(2) * 2)  # which has what was put off learned
    assert_close(predict(row(3)), row(3) * 2)
