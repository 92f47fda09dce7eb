"""A model that changes while a call of it is learned, or while what was learned is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from support import HANG, Gate, assert_close, build, draw
from torch import nn

import torchpool
from torchpool.predictor.answers import Answers


class Net(nn.Module):
    """Scaled; stops at the gate in the run of that number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale, self.shift = 1.0, 0.0
        self.act: nn.Module = nn.Identity()
        self.gate, self.stop, self.notes = Gate(), 0, Notes()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.notes.next() == self.stop:
            self.gate.pass_through()
        return self.act(self.linear(x)) * self.scale + self.shift


class Notes:
    """Counts runs; keeps its number where no watch looks."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0

    def next(self) -> int:
        self.number += 1
        return self.number


def _attribute(net: Any) -> None:
    net.scale = 3.0


def _submodule(net: Any) -> None:
    net.act = nn.ReLU().eval()


def _hook(net: Any) -> None:
    net.linear.register_forward_hook(lambda module, inputs, output: output + 1)


def _parameter(net: Any) -> None:
    net.linear.weight = nn.Parameter(torch.ones(4, 4))


def _new_attribute(net: Any) -> None:
    net.extra = 1.0


CHANGES = [_attribute, _submodule, _hook, _parameter, _new_attribute]


@pytest.mark.parametrize("backend", ["auto", "python"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_a_call_is_learned_is_not_taken_for_the_models_own(
    change: Callable[[Any], None], backend: Any
) -> None:
    net: Any = build(Net)
    net.stop = 3
    predict = torchpool.wrap(net, backend=backend)
    learning = threading.Thread(target=predict, args=(draw(2, 4),), daemon=True)
    learning.start()
    net.gate.wait_entered()
    change(net)
    net.gate.open()
    learning.join(HANG)
    assert not learning.is_alive()
    runs = net.notes.number
    assert_close(predict(draw(1, 4, seed=1)), _expected(net, draw(1, 4, seed=1)))
    if backend == "auto" or change not in (_attribute, _new_attribute):
        assert net.notes.number > runs + 2, "it was not learned anew"
    assert predict._core.volatile_attributes == []
    assert change is not _attribute or net.scale == 3.0
    assert change is not _new_attribute or net.extra == 1.0


def _expected(net: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = net.act(net.linear(x)) * net.scale + net.shift
        return result


class Scaled(nn.Module):
    """Plain enough for a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.Identity()
        self.scale, self.shift = 1.0, 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.scale + self.shift


class Counting(nn.Module):
    """Keeps what it has seen, in its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.calls, self.longest = 0, {0: 0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.longest[0] = max(self.longest[0], len(x))
        return self.linear(x)


def test_what_the_models_own_code_writes_while_learning_is_its_own() -> None:
    predict = torchpool.wrap(build(Counting))
    predict(draw(2, 4))
    [kind] = predict._learner.kinds
    predict(draw(2, 4, seed=1))
    assert list(predict._learner.kinds) == [kind], "it was learned anew"
    assert "attribute 'calls' of the model" in predict._core.volatile_attributes


def _slowly(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds the first thread that puts aside what was learned, in the midst of it."""
    held, first = Gate(), threading.Lock()
    exchange = Answers.exchange

    def slow(answers: Answers, before: int, memory: Any) -> Any:
        if first.acquire(blocking=False):
            held.pass_through()
        return exchange(answers, before, memory)

    monkeypatch.setattr(Answers, "exchange", slow)
    return held


@pytest.mark.graphs
def test_nobody_is_served_by_the_old_graph_while_it_is_put_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    net: Any = build(Scaled)
    predict = torchpool.wrap(net, example=draw(1, 4))
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",)
    held = _slowly(monkeypatch)
    net.scale = 3.0
    x = draw(1, 4, seed=1)
    slowest = threading.Thread(target=predict, args=(x,), daemon=True)
    slowest.start()
    held.wait_entered()
    with ThreadPoolExecutor(3) as others:
        results = [others.submit(predict, x) for _ in range(3)]
        held.open()
        for result in results:
            assert_close(result.result(HANG), _expected(net, x))
    slowest.join(HANG)
    assert not slowest.is_alive()
    assert len(predict._learner.kinds) == 1, "it was learned once, by whichever thread"
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",)
    assert_close(predict(x), _expected(net, x))


def test_a_change_while_a_slow_thread_puts_aside_what_was_before_another_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net: Any = build(Scaled)
    predict = torchpool.wrap(net, example=draw(1, 4))
    held = _slowly(monkeypatch)
    net.scale = 3.0
    slowest = threading.Thread(target=predict, args=(draw(1, 4),), daemon=True)
    slowest.start()
    held.wait_entered()
    net.shift = 1.0
    held.open()
    slowest.join(HANG)
    assert not slowest.is_alive()
    x = draw(1, 4, seed=1)
    assert_close(predict(x), _expected(net, x))
