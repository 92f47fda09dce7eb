"""swap(): a whole state takes the place of another, packed aside before."""

from __future__ import annotations

import copy

import pytest
import torch
from support import HANG, build, draw
from torch import nn

import torchpool
from torchpool import _core

OLD, NEW = 1.0, 100.0
X = torch.zeros(1, 4)


class Pair(nn.Module):
    """Adds both of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.full((4,), OLD)), nn.Parameter(torch.full((4,), OLD))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.first + self.second


@pytest.mark.graphs
def test_swap_serves_the_new_weights_packed_at_once() -> None:
    """They stand in the module's own parameters, and no call of theirs runs unpacked."""
    model = build(lambda: nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5)))
    new = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.mul_(1.5)
    predict, second = torchpool.wrap(model), torchpool.wrap(model)
    x = draw(1, 64)
    for one in (predict, second):
        one(x)
        assert one.ready(HANG)
    parameters = list(model.parameters())
    count = _core.packed_weights()[0]
    predict.swap(new.state_dict())
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
    assert all(torch.equal(*pair) for pair in zip(parameters, new.parameters(), strict=True))
    assert all(graph.is_packed for one in (predict, second) for graph in one._core.graphs())
    assert _core.packed_weights()[0] == count  # the same entries: both predictors share them as before
    with torch.no_grad():
        for one in (predict, second):
            torch.testing.assert_close(one(x), new(x))


def test_swap_of_a_state_that_does_not_fit_changes_nothing() -> None:
    """Names and shapes are looked at before anything is written."""
    model = Pair()
    predict = torchpool.wrap(model)
    full = torch.full((4,), NEW)
    for state, text in [
        ({"first": full}, "missing"),
        ({"first": full, "second": full, "third": full}, "unknown"),
        ({"first": full, "second": torch.ones(3)}, r"shape \(3,\), expected \(4,\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            predict.swap(state)
    assert predict(X).tolist() == [[2 * OLD] * 4]
    with pytest.raises(TypeError, match="plain callable"):
        torchpool.wrap(lambda x: x).swap({})


def test_swap_takes_other_dtypes_and_buffers() -> None:
    """As load_state_dict does."""
    model = build(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval())
    predict = torchpool.wrap(model)
    predict(X)
    state = {
        name: value.double() * 2 if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    predict.swap(state)
    assert all(torch.equal(value.double(), state[name].double()) for name, value in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(predict(X), model(X))
