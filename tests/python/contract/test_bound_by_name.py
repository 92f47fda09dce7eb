"""What is put back of a model whose code binds attributes by name: its own changes, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import build
from torch import nn

from torchpool.contract.probe.state import ModuleState


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.scale, self.scales, self.seen, self.seen_1 = 1.0, [1.0], 0, 0


class Says(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        setattr(self, "seen", len(x))  # noqa: B010
        return self.linear(x) * self.scale


class Composes(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        setattr(self, f"seen_{len(x)}", 1)
        return self.linear(x) * self.scale


class Hides(Net):
    def forward(self, x: torch.Tensor, name: str = "x") -> torch.Tensor:
        setattr(self, name, len(x))
        vars(self)[name] = 1
        return self.linear(x) * self.scale


def _during_runs(model: nn.Module, *changes: Callable[[Any], None]) -> None:
    """A run for each change, which comes in its midst."""
    state = ModuleState(model)
    for change in changes:
        state.begin_run()
        change(model)
        state.note_run()
    state.restore()


@pytest.mark.parametrize("cls", [Says, Composes, Hides])
def test_what_a_user_changes_in_a_run_stays(cls: type[Net]) -> None:
    model = build(cls)
    _during_runs(model, lambda net: setattr(net, "scale", 3.0), lambda net: None)
    assert model.scale == 3.0
    _during_runs(model, lambda net: net.scales.append(2.0), lambda net: None)
    assert model.scales == [1.0, 2.0]


def test_what_the_code_says_that_it_binds_is_put_back() -> None:
    model = build(Says)
    _during_runs(model, lambda net: setattr(net, "seen", 1))
    assert model.seen == 0
    other = build(Composes)
    _during_runs(other, lambda net: setattr(net, "seen_1", 1))
    assert other.seen_1 == 0


def test_what_moves_in_each_run_is_put_back_under_whatever_name() -> None:
    model = build(Hides)
    _during_runs(model, lambda net: setattr(net, "seen", 1), lambda net: setattr(net, "seen", 2))
    assert model.seen == 0
    _during_runs(model, lambda net: net.scales.append(2), lambda net: net.scales.append(3))
    assert model.scales == [1.0]
    _during_runs(model, lambda net: setattr(net, "added", 1))
    assert not hasattr(model, "added")
