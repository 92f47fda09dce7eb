"""A classifier of sequences with methods of its own: one maps another over a thread pool.

Time comes first in its inputs, it is given its states, and folds steps and rows into one dim for its last layer. A
sequence's class is that with the largest score of any step.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import torchpool
from benchmarks.harness.data import lstm_samples
from benchmarks.harness.models import build
from benchmarks.listings.listing import ITEMS_TO_LEARN, Listing

THREADS = 4
HIDDEN, LAYERS = 20, 1


class SequenceClassifier(nn.Module):
    """Sequences [T, B, 10] and states [1, B, 20] to scores [T * B, 3] and states."""

    executor = concurrent.futures.ThreadPoolExecutor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(10, HIDDEN, LAYERS)
        self.linear = nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, states = self.lstm(x, states)
        return self.linear(output.view(-1, HIDDEN)), states

    def predict_single(self, x: Tensor) -> int:
        states = torch.zeros(LAYERS, 1, HIDDEN), torch.zeros(LAYERS, 1, HIDDEN)
        with torch.no_grad():
            output, _ = self.forward(x, states)
        return int(output.argmax().item())

    def predict(self, inputs: Sequence[Tensor]) -> list[int]:
        with self.executor(max_workers=THREADS) as executor:
            return list(executor.map(self.predict_single, inputs))


class AtItsBest(SequenceClassifier):
    """With the pool of torchpool imported in the standard's place."""

    executor = torchpool.ThreadPoolExecutor


def _inputs() -> list[Tensor]:
    return [x.transpose(0, 1).contiguous() for x in lstm_samples()]


def loop() -> Callable[[], list[int]]:
    """One call after another."""
    model, inputs = build(SequenceClassifier), _inputs()
    return lambda: [model.predict_single(x) for x in inputs]  # type: ignore[operator]


def before() -> Callable[[], list[int]]:
    model, inputs = build(SequenceClassifier), _inputs()
    return lambda: model.predict(inputs)  # type: ignore[operator]


def _accelerated(cls: type[SequenceClassifier]) -> Callable[[], list[int]]:
    model: Any = torchpool.accelerate(build(cls))
    inputs = _inputs()
    model.predict(inputs[:ITEMS_TO_LEARN])
    torchpool.predictor_of(model).ready(60)
    return lambda: model.predict(inputs)


def one_line() -> Callable[[], list[int]]:
    return _accelerated(SequenceClassifier)


def best() -> Callable[[], list[int]]:
    return _accelerated(AtItsBest)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class _Nothing(nn.Module):
    """Takes what the classifier takes."""

    def forward(self, x: Tensor, states: tuple[Tensor, Tensor]) -> Tensor:
        return x[0]


def free_call() -> Callable[[], float]:
    """What the same body costs where the model costs nothing: the body with a stub, and map's cost an item of a model
    that computes nothing, one after the other. Gives seconds."""
    model, inputs = build(SequenceClassifier), _inputs()
    result = eager_result(model, inputs[0])
    model.forward = lambda x, states: result  # type: ignore[assignment]
    predict = torchpool.wrap(_Nothing().eval())
    states = torch.zeros(LAYERS, 1, HIDDEN), torch.zeros(LAYERS, 1, HIDDEN)
    calls = [(x, states) for x in inputs]
    list(predict.starmap(calls[:ITEMS_TO_LEARN]))
    predict.ready(60)

    def run() -> float:
        body = _seconds(lambda: [model.predict_single(x) for x in inputs])  # type: ignore[operator]
        return body + _seconds(lambda: list(predict.starmap(calls)))

    return run


def eager_result(model: nn.Module, x: Tensor) -> Any:
    """What the model gives for one input."""
    with torch.no_grad():
        return model(x, (torch.zeros(LAYERS, 1, HIDDEN), torch.zeros(LAYERS, 1, HIDDEN)))


LISTING = Listing(
    "lstm", "LSTM classifier, own methods, 2,000 sequences of 50x1x10", 2_000,
    {"loop": loop, "before": before, "one line": one_line, "best": best, "free call": free_call},
)  # fmt: skip
