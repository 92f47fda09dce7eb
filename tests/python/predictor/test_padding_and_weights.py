"""Padding that does nothing with some weights is not used with others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bad_models import assert_same, together
from support import HANG, build, eager
from torch import nn

import torchpool

Tensor = torch.Tensor


class Summed(nn.Module):
    """The padded id's row is zero, until it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(50, 8, padding_idx=0), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.embed(ids).sum(1))


class Gated(nn.Module):
    """The mask counts as much as a learnt gate says."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gate = nn.Embedding(50, 8), nn.Parameter(torch.ones(()))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weights = mask.float() * self.gate + (1 - self.gate)
        return (self.embed(ids) * weights[..., None]).sum(1)


class GatedByBuffer(Gated):
    def __init__(self) -> None:
        super().__init__()
        del self.gate
        self.register_buffer("gate", torch.ones(()))


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "a row of an embedding": (Summed, {"pad": {"ids": 0}}),
    "a gate": (Gated, {}),
    "a gate in a buffer": (GatedByBuffer, {}),
}


def call(model: nn.Module, length: int, seed: int) -> tuple[Tensor, ...]:
    ids = torch.randint(1, 50, (1, length), generator=torch.Generator().manual_seed(seed))
    return (ids,) if isinstance(model, Summed) else (ids, torch.ones(1, length, dtype=torch.long))


def mixed(model: nn.Module) -> list[tuple[Tensor, ...]]:
    """Calls of four lengths, three of each."""
    return [call(model, 4 + i % 4, i) for i in range(12)]


def other(model: nn.Module) -> dict[str, Tensor]:
    """A state with which padding does something."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if isinstance(model, Summed):
        state["embed.weight"][0] = 1.0
    else:
        state["gate"].fill_(0.5)
    return state


def _by_data(predict: torchpool.Predictor, model: nn.Module) -> None:
    for name, value in other(model).items():
        module, _, leaf = name.rpartition(".")
        getattr(model.get_submodule(module), leaf).data = value


def _in_update(predict: torchpool.Predictor, model: nn.Module) -> None:
    with predict.updating():
        model.load_state_dict(other(model))


WRITES: dict[str, Callable[[torchpool.Predictor, nn.Module], object]] = {
    "load_state_dict": lambda predict, model: model.load_state_dict(other(model)),
    "data": _by_data,
    "updating": _in_update,
    "swap": lambda predict, model: predict.swap(other(model)),
}


def check(predict: torchpool.Predictor, runtime: torchpool.Runtime, model: nn.Module) -> None:
    calls = mixed(model)
    for one, result in zip(calls, together(predict, runtime, calls), strict=True):
        assert_same(result, eager(model, *one))


def wrapped(kind: str, runtime: torchpool.Runtime, **options: Any) -> tuple[torchpool.Predictor, nn.Module]:
    make, more = MODELS[kind]
    model = build(make)
    example = [call(model, length, length) for length in (5, 9, 12)]
    return torchpool.wrap(model, example=example, runtime=runtime, **more, **options), model


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("kind", MODELS)
def test_by_the_module(kind: str, write: str, runtime: torchpool.Runtime) -> None:
    predict, model = wrapped(kind, runtime, backend="python")
    assert predict.explain().contracts[0].padded
    check(predict, runtime, model)
    assert predict.stats()["batch_rows"]["max"] > 3  # of several lengths
    WRITES[write](predict, model)
    for _ in range(2):
        check(predict, runtime, model)
    assert "padding was found to do nothing with other weights" in str(predict.explain())


@pytest.mark.graphs
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("kind", ["a row of an embedding", "a gate"])
def test_by_a_graph(kind: str, write: str, runtime: torchpool.Runtime) -> None:
    predict, model = wrapped(kind, runtime, max_batch=16)
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",) and predict.explain().contracts[0].padded, predict.explain()
    check(predict, runtime, model)
    WRITES[write](predict, model)
    for _ in range(2):
        check(predict, runtime, model)


def test_calls_of_equal_lengths_go_on_to_share_batches(runtime: torchpool.Runtime) -> None:
    predict, model = wrapped("a gate", runtime, backend="python")
    model.load_state_dict(other(model))
    check(predict, runtime, model)  # where it is found out
    before = predict.stats()["batch_rows"]["count"]
    check(predict, runtime, model)
    assert predict.stats()["batch_rows"]["count"] - before == 4  # one for each length


def test_refresh_tries_padding_with_the_present_weights(runtime: torchpool.Runtime) -> None:
    predict, model = wrapped("a gate", runtime, backend="python")
    state = {name: value * 2 if name != "gate" else value for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    check(predict, runtime, model)
    predict.refresh()
    check(predict, runtime, model)
    before = predict.stats()["batch_rows"]["count"]
    check(predict, runtime, model)
    assert predict.stats()["batch_rows"]["count"] - before == 1


def test_modules_that_a_function_has_at_hand(runtime: torchpool.Runtime) -> None:
    model = build(Gated)
    example = [call(model, length, length) for length in (5, 9, 12)]
    predict = torchpool.wrap(lambda ids, mask: model(ids, mask), example=example, prove="trust", runtime=runtime)
    assert predict.explain().contracts[0].padded
    model.load_state_dict(other(model))
    calls = mixed(model)
    for one, result in zip(calls, together(predict, runtime, calls), strict=True):
        assert_same(result, eager(model, *one))
