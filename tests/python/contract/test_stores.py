"""Code that binds attributes of other objects than the model's parts does not bind the model's of the same names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from torchpool.contract.reach import Reach

pytestmark = pytest.mark.usefixtures("seeded")


class Settings:
    """Of no part of a model, with names that parts have, too."""

    def __init__(self, **more: Any) -> None:
        self.size = 4
        for name, value in more.items():
            setattr(self, name, value)

    def grow(self) -> None:
        self.size = 5

    def grow_of(self, other: Any) -> None:
        other.size = 5

    def grow_another(self) -> None:
        self = other = Keeper.made
        self.size = 5
        del other

    @staticmethod
    def grow_given(self: Any) -> None:
        self.size = 5

    def set_of(self, other: Any) -> None:
        setattr(other, "size", 1)  # noqa: B010

    def set_own(self) -> None:
        setattr(self, "size", 1)  # noqa: B010

    def share_with(self, other: Any) -> None:
        self.__dict__ = other.__dict__
        self.size = 5

    def set_by_dict(self) -> None:
        self.__dict__["size"] = 1

    def grow_inside(self) -> None:
        def grow() -> None:
            self.size = 5

        grow()


class Keeper:
    made: Any = None


class Model(nn.Module):
    def __init__(self, settings: Any = None) -> None:
        super().__init__()
        self.size, self.settings, self.linear = 4, settings or Settings(), nn.Linear(4, 3)


def with_forward(forward: Callable[..., Any], settings: Any = None) -> nn.Module:
    cls = type("Made", (Model,), {"forward": forward, "__module__": __name__})
    forward.__qualname__ = "Made.forward"
    globals()["Made"] = cls
    made: nn.Module = cls(settings)
    return made


def sets_a_setting(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.settings.size = 2
    return self.linear(x)  # type: ignore[no-any-return]


def makes_settings(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.linear(x) * Settings(size=2).size  # type: ignore[no-any-return]


def sets_its_own(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.size = 2
    return self.linear(x)  # type: ignore[no-any-return]


def sets_a_local(self: Any, x: torch.Tensor) -> torch.Tensor:
    other = self
    other.size = 2
    return self.linear(x)  # type: ignore[no-any-return]


def calls(name: str, *given: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    exec(f"def forward(self, x):\n self.settings.{name}({', '.join(given)})\n return self.linear(x)", globals(), scope)
    return scope["forward"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "forward",
    [sets_a_setting, makes_settings, calls("grow"), calls("set_own"), calls("set_by_dict")],
    ids=["a setting", "made", "by itself", "setattr", "__dict__"],
)
def test_of_another_object(forward: Callable[..., Any]) -> None:
    model = with_forward(forward)
    assert not Reach(model, model).writes_attributes()
    assert Reach(model, model).says_writes("size")  # of whichever object


@pytest.mark.parametrize(
    "forward",
    [
        sets_its_own,
        sets_a_local,
        calls("grow_of", "self"),
        calls("grow_another"),
        calls("grow_given", "self"),
        calls("set_of", "self"),
        calls("share_with", "self"),
        calls("grow_inside"),
    ],
    ids=["itself", "local", "handed over", "self bound anew", "static", "setattr", "its dict", "in a function inside"],
)
def test_of_what_may_be_a_part(forward: Callable[..., Any]) -> None:
    model = with_forward(forward)
    assert Reach(model, model).writes_attributes()


def test_what_a_part_keeps_may_be_a_part() -> None:
    model = with_forward(sets_a_setting, settings=Model())
    assert Reach(model, model).writes_attributes()


class Mixed(Settings, Model):
    """A part that is such an object, too."""

    def __init__(self) -> None:
        Model.__init__(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.grow()
        return self.linear(x)  # type: ignore[no-any-return]


def test_a_part_may_have_such_a_class() -> None:
    model = Mixed()
    assert Reach(model, model).writes_attributes()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_renew_lists_of_their_weights_only(kind: Any) -> None:
    model = kind(4, 3)
    assert not Reach(model, model).writes_attributes()
