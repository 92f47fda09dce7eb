"""What a model raises reaches its caller, whatever the model did before, and whatever is looked at in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import build, draws
from torch import nn

import torchpool

Tensor = torch.Tensor


class Moody(nn.Module):
    """Raises for more than one row, after it has changed itself."""

    def __init__(self, change: Callable[[Any], object]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.change = [change]
        self.note: Any = None

    def forward(self, x: Tensor, names: Any = None) -> Tensor:
        self.change[0](self)
        y = self.layer(x)
        if len(x) != 1:
            raise ValueError(f"as many names as rows are needed, got {names} for {len(x)} rows")
        return y


class Odd:
    """Compares in Python, and as nothing else does."""

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


def _hook(model: Any) -> None:
    model.layer.register_forward_pre_hook(lambda module, args: args).remove()


def _hook_left(model: Any) -> None:
    model.layer.register_forward_pre_hook(lambda module, args: args)


def _attribute(model: Any) -> None:
    model.note = object()


def _odd_attribute(model: Any) -> None:
    model.note = (Odd(), len(model.layer._forward_pre_hooks))


def _submodule(model: Any) -> None:
    layer = model.layer
    model.layer = nn.Identity()
    model.layer = layer


CHANGES = [_hook, _hook_left, _attribute, _odd_attribute, _submodule]


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_changed_itself_raises_its_own_exception(change: Callable[[Any], object]) -> None:
    """In a run of the learner, in a call, and in a map, as it would without a predictor."""
    model = build(lambda: Moody(change))
    predict = torchpool.wrap(model)
    two = draws(1, 2, 4)[0]
    for _ in range(3):
        with pytest.raises(ValueError, match="as many names as rows"):
            predict(two, names=["a"])
    calls = [{"x": x, "names": [name]} for x, name in zip(draws(6, 1, 4), "ababab", strict=True)]
    with torch.no_grad():
        want = [model.layer(call["x"]) for call in calls]
    for got, expected in zip(predict.starmap(calls), want, strict=True):
        assert torch.allclose(got, expected)
    for got in predict.starmap([{"x": two, "names": ["a"]}] * 4, return_exceptions=True):
        assert isinstance(got, ValueError)
    with pytest.raises(ValueError, match="as many names as rows"):
        predict.submit(two, names=["b"]).result()


class Gone:
    """As a weak proxy whose object is gone: it raises whatever it is asked."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise ReferenceError("the object is gone")


@pytest.mark.parametrize("way", ["call", "submit", "map"])
def test_an_argument_that_cannot_say_what_it_is_goes_to_the_model(way: str) -> None:
    """Looking at it leaves no error behind."""
    model = build(lambda: Moody(lambda model: None))
    predict = torchpool.wrap(model)
    x = draws(1, 1, 4)[0]
    for _ in range(2):
        if way == "call":
            got = predict(x, Gone())
        elif way == "submit":
            got = predict.submit(x, Gone()).result()
        else:
            got = next(iter(predict.starmap([(x, Gone())])))
        with torch.no_grad():
            assert torch.allclose(got, model(x))
