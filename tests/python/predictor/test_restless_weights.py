"""Weights that are written in every probe: what is found then is no last word."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest
import torch
from support import HANG, assert_close, build, eager, row
from torch import nn

import torchpool
from torchpool.predictor import building, retries

resting = threading.Event()
comparing = threading.Event()


class Trained(nn.Module):
    """Its weights change with each of its runs, as an optimiser in another thread has them, until it rests."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not resting.is_set():
            elsewhere(self.linear.weight)
        result: torch.Tensor = self.linear(x)
        return result


def elsewhere(weight: torch.Tensor) -> None:
    """A write by a thread of its own, that no mode of this one sees."""

    def write() -> None:
        with torch.no_grad():
            weight.add_(0.5)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()


@pytest.fixture(autouse=True)
def _never_resting() -> None:
    resting.clear()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probing is tried again with the next call."""
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.0)


@torch.no_grad()
def test_weights_that_never_rest_are_tried_again(soon: None) -> None:
    model = build(Trained)
    predict = torchpool.wrap(model)
    predict(row(1))
    text = str(predict.explain())
    assert "weights changed during each of 4 probes" in text
    assert "it is tried again later" in text
    assert [contract.mode for contract in predict.explain().contracts] == ["alone"]
    resting.set()
    assert_close(predict(row(2)), eager(model, row(2)))
    assert [contract.mode for contract in predict.explain().contracts] == ["merge"]


@torch.no_grad()
def test_they_are_tried_again_at_growing_distance_and_saved_for_nobody() -> None:
    predict = torchpool.wrap(build(Trained), example=row())
    pauses = [predict._learner.retries.again_in(0) for _ in range(3)]  # the first one was taken at the first call
    assert pauses == [20.0, 40.0, 80.0]
    resting.set()
    copied = pickle.loads(pickle.dumps(predict))
    copied(row())
    assert [contract.mode for contract in copied.explain().contracts] == ["merge"]


class Compared(nn.Module):
    """Its weights change with each run that compares it with a graph, until it rests."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if comparing.is_set() and not resting.is_set():
            elsewhere(self.linear.weight)
        result: torch.Tensor = self.linear(x)
        return result


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph is compared once, and not again while its weights change."""
    samples = building.samples_for_proof

    def compared(*args: Any, **kwargs: Any) -> Any:
        comparing.set()
        try:
            return samples(*args, **kwargs)
        finally:
            comparing.clear()

    monkeypatch.setattr(building, "_LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(building, "samples_for_proof", compared)


@pytest.mark.graphs
@torch.no_grad()
def test_a_graph_is_captured_again_once_weights_rest(soon: None, once: None) -> None:
    model = build(Compared)
    predict = torchpool.wrap(model, example=row())
    assert predict.ready(HANG)
    assert "graph" not in predict.explain().served_by
    assert "its weights kept changing while the graph was compared with the module; it is captured again later" in str(
        predict.explain()
    )
    assert_close(predict(row(1)), eager(model, row(1)))  # this one has it tried again, in vain
    assert predict.ready(HANG)
    assert "graph" not in predict.explain().served_by
    resting.set()
    assert_close(predict(row(2)), eager(model, row(2)))
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",)
    assert_close(predict(row(3)), eager(model, row(3)))


@pytest.mark.graphs
@torch.no_grad()
def test_it_is_captured_again_at_growing_distance(once: None) -> None:
    predict = torchpool.wrap(build(Compared), example=row())
    assert predict.ready(HANG)
    pauses = [predict._learner.retries.pause_of(0) for _ in range(3)]  # the first one was taken when it failed
    assert pauses == [20.0, 40.0, 80.0]
    resting.set()
    predict(row(1))
    assert predict.ready(HANG)
    assert "graph" not in predict.explain().served_by, "it was not to be tried so soon"


@pytest.mark.graphs
@torch.no_grad()
def test_a_proof_that_is_required_is_looked_for_again_with_the_next_call(once: None) -> None:
    model = build(Compared)
    predict = torchpool.wrap(model, prove="required")
    with pytest.raises(ValueError, match="its weights kept changing"):
        predict(row(1))
    resting.set()
    assert_close(predict(row(2)), eager(model, row(2)))
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",)
