"""Gradients that a module's results have are never lost, wherever the weights that they come from are kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from inplace_support import Classifier, came, classifier, entrance_counts, serve_once, x
from support import assert_close, build, eager
from torch import nn

import torchpool

IN_GLOBAL = torch.ones(3, requires_grad=True)


@dataclasses.dataclass
class Result:
    value: torch.Tensor


class Held:
    def __init__(self, value: torch.Tensor) -> None:
        self.value = value


class Scaled(Classifier):
    """Its own weights are frozen; a scale is registered nowhere."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.kind = kind
        weight = torch.ones(3, requires_grad=True)
        self.weights: Any = {"list": [weight], "dict": {"a": ({"b": weight},)}}.get(kind)
        self.parts = [nn.Linear(3, 3)] if kind == "module in a list" else []
        self.closure = (lambda: weight) if kind == "closure" else None

    def forward(self, x: torch.Tensor, scaled: bool = True) -> Any:  # type: ignore[override]
        y = super().forward(x)
        if not scaled:
            return y
        if self.parts:
            return self.parts[0](y)
        return y * self.scale()

    def scale(self) -> torch.Tensor:
        if self.closure is not None:
            return self.closure()
        if self.kind == "list":
            return self.weights[0]
        return self.weights["a"][0]["b"] if self.kind == "dict" else IN_GLOBAL


KINDS = ["list", "dict", "module in a list", "closure", "global"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_registered(kind: str) -> None:
    model = torchpool.accelerate(build(lambda: Scaled(kind)))
    with torch.no_grad():
        assert not any(model(x()).requires_grad for _ in range(3))
    served = came(model)
    assert served == 2, "what grad mode changes is looked at with it on"
    assert all(model(x()).requires_grad for _ in range(4)), entrance_counts(model)
    assert came(model) == served
    assert not eager(model, x()).requires_grad
    assert came(model) == served + 1


@pytest.mark.parametrize("kind", ["closure", "global"])
def test_flags_that_turn_such_weights_on_are_told_apart(kind: str) -> None:
    model = torchpool.accelerate(build(lambda: Scaled(kind)))
    for _ in range(3):
        assert not model(x(), False).requires_grad
    assert came(model) == 2
    assert all(model(x(), True).requires_grad for _ in range(3))
    notes = torchpool.predictor_of(model).explain().notes
    assert any("not registered" in note for note in notes), notes


@pytest.mark.parametrize("kind", ["list", "dict", "module in a list"])
def test_such_weights_that_require_grad_later(kind: str) -> None:
    model = build(lambda: Scaled(kind))
    weights = list(model.parts[0].parameters()) if model.parts else [model.scale()]
    for weight in weights:
        weight.requires_grad_(False)
    torchpool.accelerate(model)
    assert not any(model(x()).requires_grad for _ in range(3))
    assert came(model) == 2
    weights[0].requires_grad_(True)
    assert all(model(x()).requires_grad for _ in range(3))


@pytest.mark.parametrize("around", [lambda y: (y, 1), lambda y: [y], lambda y: {"a": [y]}, Result, Held])
def test_results_are_looked_into(around: Any) -> None:
    class Wrapped(Classifier):
        def forward(self, x: torch.Tensor) -> Any:  # type: ignore[override]
            return around(super().forward(x) * IN_GLOBAL)

    def tensor(result: Any) -> torch.Tensor:
        while not isinstance(result, torch.Tensor):
            result = vars(result) if hasattr(result, "__dict__") else result
            result = next(iter(result.values())) if isinstance(result, dict) else result[0]
        return result

    model = torchpool.accelerate(build(Wrapped).requires_grad_(False))
    assert all(tensor(model(x())).requires_grad for _ in range(3))
    assert came(model, "result gradients") == 2


def test_gradients_that_forward_turns_on_itself() -> None:
    class On(Classifier):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            with torch.enable_grad():
                return super().forward(x)

    model = torchpool.accelerate(build(On))
    assert all(eager(model, x()).requires_grad for _ in range(3))


def test_a_result_that_is_one_tuple_is_served() -> None:
    class Pair(Classifier):
        def forward(self, x: torch.Tensor) -> Any:  # type: ignore[override]
            y = super().forward(x)
            return y, y + 1

    model = torchpool.accelerate(build(Pair))
    one, other = serve_once(model, x())
    assert_close(one + 1, other)


@pytest.mark.parametrize("where", ["input", "weight"])
@pytest.mark.parametrize("grad", [False, True])
def test_forward_mode_differentiation(where: str, grad: bool) -> None:
    plain, model = classifier().requires_grad_(False), torchpool.accelerate(classifier().requires_grad_(False))
    serve_once(model, x())
    tangents = []
    with forward_ad.dual_level(), torch.set_grad_enabled(grad):
        for one in (plain, model, model):
            inputs = forward_ad.make_dual(x(), torch.ones(1, 10)) if where == "input" else x()
            if where == "weight":
                bias = one.outer.bias.detach().clone()
                if "bias" in one.outer._parameters:
                    del one.outer.bias
                one.outer.bias = forward_ad.make_dual(bias, torch.ones(3))
            tangents.append(forward_ad.unpack_dual(one(inputs)).tangent)
    assert all(torch.equal(tangent, tangents[0]) for tangent in tangents)
    assert came(model, "forward gradients") == 2
    jacobians = [
        torch.autograd.functional.jacobian(one, x(), strategy="forward-mode", vectorize=True)
        for one in (classifier(), torchpool.accelerate(classifier()))
    ]
    assert torch.equal(*jacobians)
