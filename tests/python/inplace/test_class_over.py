"""Classes that are put over an accelerated module's own, as parametrizations do, are followed."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from executor_support import freed
from inplace_support import Classifier, came, classifier, entrance_counts, serve_once, x
from support import HANG, assert_close, build, eager
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

import torchpool


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


class Scaled(Classifier):
    """Has a weight of its own, so that its own class is changed by a parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), 0.5))

    def forward(self, a: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return super().forward(a, scale) * self.scale


class OwnType(Scaled):
    """Keeps its class."""

    def kind(self) -> type:
        return type(self)


CLASSES = pytest.mark.parametrize("cls", [Scaled, OwnType])


@CLASSES
@pytest.mark.parametrize("backend", ["auto", "python"])
@pytest.mark.graphs
def test_it_is_served_with_a_parametrization_and_without_again(cls: Any, backend: str) -> None:
    plain, model = build(cls), torchpool.accelerate(build(cls), backend=backend)
    assert_close(serve_once(model, x()), eager(plain, x()))
    predictor = torchpool.predictor_of(model)
    for change in (
        lambda one: parametrize.register_parametrization(one, "scale", Doubled()),
        lambda one: parametrize.register_parametrization(one.inner, "weight", Doubled()),
        lambda one: parametrize.remove_parametrizations(one, "scale", leave_parametrized=False),
        lambda one: parametrize.register_parametrization(one, "scale", Doubled()),
        lambda one: parametrize.remove_parametrizations(one, "scale"),
    ):
        change(plain)
        change(model)
        assert_close(serve_once(model, x(1)), eager(plain, x(1)))
        assert torchpool.predictor_of(model) is predictor
        assert predictor.ready(HANG)
        assert_close(serve_once(model, x(2)), eager(plain, x(2)))
        if backend == "auto":
            assert predictor.explain().served_by == ("graph",)
    assert came(model, "class changed") == 0


@CLASSES
def test_other_objects_and_copies_are_called_as_before(cls: Any) -> None:
    model, other = torchpool.accelerate(build(cls)), build(cls)
    serve_once(model, x())
    parametrize.register_parametrization(model, "scale", Doubled())
    serve_once(model, x())
    served, copied = came(model), copy.deepcopy(model)
    with torch.no_grad():
        assert_close(copied(x()), eager(other, x()) * 2)
        assert_close(other(x()), eager(build(cls), x()))
    assert came(model) == served


def test_restore_leaves_the_parametrization(caplog: pytest.LogCaptureFixture) -> None:
    model, plain = torchpool.accelerate(build(Scaled)), build(Scaled)
    serve_once(model, x())
    for one in (model, plain):
        parametrize.register_parametrization(one, "scale", Doubled())
    serve_once(model, x())
    torchpool.restore(model)
    with torch.no_grad():
        assert_close(model(x()), eager(plain, x()))
        assert parametrize.is_parametrized(model, "scale")
        torchpool.accelerate(model)
        assert_close(serve_once(model, x(1)), eager(plain, x(1)))


def test_weight_norm_of_the_module_itself_is_followed() -> None:
    plain, model = build(lambda: nn.Linear(10, 3)), torchpool.accelerate(build(lambda: nn.Linear(10, 3)))
    serve_once(model, x())
    for one in (plain, model):
        weight_norm(one)
    assert_close(serve_once(model, x(1)), eager(plain, x(1)))
    with torch.no_grad():
        for one in (plain, model):
            one.parametrizations.weight.original0.mul_(3)
    assert_close(serve_once(model, x(1)), eager(plain, x(1)))


def test_one_that_has_methods_of_its_own_is_not() -> None:
    model = torchpool.accelerate(classifier())
    serve_once(model, x())
    made = type(model)

    class Over(made):  # type: ignore[misc, valid-type]
        def forward(self, a: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return super().forward(a, scale) + 1  # type: ignore[no-any-return]

    model.__class__ = Over
    with torch.no_grad():
        for seed in range(3):
            assert_close(model(x(seed)), eager(classifier(), x(seed)) + 1)
    assert came(model, "class changed") > 0, entrance_counts(model)


def test_helpers_of_a_class_that_is_put_over_it_count() -> None:
    class Helped(Classifier):
        def forward(self, a: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return super().forward(a, scale) + self.more()

        def more(self) -> float:
            return 1.0

    model, plain = torchpool.accelerate(build(Helped)), build(Classifier)
    assert_close(serve_once(model, x()), eager(plain, x()) + 1)
    model.__class__ = type("Over", (type(model),), {"more": lambda self: 2.0})
    assert_close(serve_once(model, x()), eager(plain, x()) + 2)


def test_it_goes_with_its_classes() -> None:
    model = torchpool.accelerate(build(Scaled))
    serve_once(model, x())
    parametrize.register_parametrization(model, "scale", Doubled())
    serve_once(model, x())
    gone = freed(model)
    del model
    gc.collect()
    assert gone.wait(HANG)
