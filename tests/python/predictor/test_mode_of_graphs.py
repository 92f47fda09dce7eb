"""A graph is that of the module's own mode, and another mode is looked at without a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bad_models import assert_same, together
from support import HANG, build, draw, eager
from torch import nn

import torchpool
from torchpool.capture import same_in_eval

Tensor = torch.Tensor


class Trained(nn.Module):
    """What it does in train mode only shows for large values, which no example has."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.change = nn.Linear(4, 3), change

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.change(x) if self.training else x)


class Asks(Trained):
    """By a function of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.change(x) if _mode_of(self) else x)


def _mode_of(module: nn.Module) -> bool:
    return module.training


class Dropped(Trained):
    """With a dropout that does nothing in train mode either."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.0, self.training)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(-50, 50),
    "where": lambda x: torch.where(x > 40, x * 2, x),
    "fill": lambda x: x.masked_fill(x.abs() > 40, 0.0),
    "nan": lambda x: torch.nan_to_num(torch.where(x > 40, torch.nan, x), nan=1.0),
    "rows meet": lambda x: torch.where(x > 40, x - x.mean(0), x),
    "rows meet in a branch": lambda x: x - x.mean(0) if bool((x > 40).any()) else x,
}


@pytest.mark.graphs
@pytest.mark.parametrize("backend", ["auto", "python"])
@pytest.mark.parametrize("make", [Trained, Asks, Dropped])
def test_what_is_other_in_train_mode_for_values_to_come(
    make: Callable[[Callable[[Tensor], Tensor]], nn.Module], backend: Any, runtime: torchpool.Runtime
) -> None:
    for change in CHANGES.values():
        model = build(lambda change=change: make(change)).train()
        predict = torchpool.wrap(model, example=draw(1, 4), backend=backend, runtime=runtime)
        assert predict.ready(HANG)
        calls = [(draw(1, 4, seed=i) * (1 if i % 3 else 500),) for i in range(12)]
        for call, result in zip(calls, together(predict, runtime, calls), strict=True):
            assert_same(result, eager(model, *call))
        assert model.training
        predict.close()


@pytest.mark.graphs
def test_a_model_in_train_mode_has_a_graph_where_it_computes_the_same_for_all() -> None:
    model = build(lambda: Dropped(CHANGES["clamp"])).train()
    predict = torchpool.wrap(model, example=draw(1, 4))
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",), predict.explain()


@pytest.mark.graphs
def test_recurrent_layers_in_train_mode_have_graphs() -> None:
    model = build(lambda: nn.LSTM(4, 3, batch_first=True)).train()
    predict = torchpool.wrap(model, example=draw(1, 5, 4))
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",), predict.explain()
    assert_same(predict(draw(1, 5, 4, seed=1)), eager(model, draw(1, 5, 4, seed=1)))


# --- looking at eval mode ---------------------------------------------------------------------------------------------


class Evaluated(nn.Module):
    """Does something beside its result in eval mode."""

    def __init__(self, beside: Callable[[Evaluated], object]) -> None:
        super().__init__()
        self.linear, self.beside = nn.Linear(4, 3), beside
        self.register_buffer("evals", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.beside(self)
        return self.linear(x)


def _draw_and_catch(model: Evaluated) -> None:
    try:
        torch.rand(1)
    except BaseException:
        model.evals.add_(0)


BESIDE: dict[str, Callable[[Evaluated], object]] = {
    "writes a buffer": lambda model: model.evals.add_(1),
    "draws": lambda model: torch.rand(1),
    "draws, and catches all": _draw_and_catch,
    "raises": lambda model: [][0],
}


@pytest.mark.parametrize("kind", BESIDE)
def test_looking_at_eval_mode_leaves_no_trace(kind: str) -> None:
    model = build(lambda: Evaluated(BESIDE[kind])).train()
    assert not same_in_eval(model, model, ((draw(1, 4),), {}))
    assert model.evals == 0 and model.training


def test_it_is_the_same_where_nothing_happens() -> None:
    model = build(lambda: Evaluated(lambda model: None)).train()
    assert same_in_eval(model, model, ((draw(1, 4),), {}))


class CopiesToItself(nn.Linear):
    def __deepcopy__(self, memo: Any) -> CopiesToItself:
        return self


def test_a_part_that_copies_to_itself_stays_in_its_mode() -> None:
    model = build(lambda: nn.Sequential(CopiesToItself(4, 4), Evaluated(lambda model: None))).train()
    assert not same_in_eval(model, model, ((draw(1, 4),), {}))
    assert all(part.training for part in model.modules())
