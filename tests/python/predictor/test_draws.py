"""Models that draw or seed random numbers in forward: each call gets what it gives alone, whoever calls beside it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from bad_models import assert_same, together
from support import HANG, build, draw, draws, eager, run_threads
from torch import nn

import torchpool
from torchpool.contract.probe import PlainDraws

Tensor = torch.Tensor


class Noisy(nn.Module):
    """Drops by chance, seeded by the call's own values."""

    def __init__(self, chance: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.chance = nn.Linear(8, 32), nn.Linear(32, 3), chance

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(h * (self.chance(int(x.abs().sum() * 1000)) > 0.3))


def _numpy(seed: int) -> Tensor:
    numpy.random.seed(seed)
    return torch.from_numpy(numpy.random.rand(32).astype("float32"))


def _python(seed: int) -> Tensor:
    random.seed(seed)
    return torch.tensor([random.random() for _ in range(32)])


def _imported_inside(seed: int) -> Tensor:
    import numpy as np

    np.random.seed(seed)
    return torch.from_numpy(np.random.rand(32).astype("float32"))


class Kept:
    """Seeds a generator that it keeps."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __call__(self, seed: int) -> Tensor:
        self.generator.seed(seed)
        return torch.tensor([float(self.generator.random()) for _ in range(32)])


def _own(seed: int) -> Tensor:
    return torch.rand(32, generator=torch.Generator().manual_seed(seed))


def _own_of_numpy(seed: int) -> Tensor:
    return torch.from_numpy(numpy.random.default_rng(seed).random(32, dtype="float32"))


SHARED: dict[str, Callable[[], Callable[[int], Tensor]]] = {
    "numpy's": lambda: _numpy,
    "numpy's, imported inside": lambda: _imported_inside,
    "Python's": lambda: _python,
    "a kept one of Python's": lambda: Kept(random.Random(0)),
    "a kept one of numpy's": lambda: Kept(numpy.random.RandomState(0)),
}
OWN: dict[str, Callable[[], Callable[[int], Tensor]]] = {"torch's": lambda: _own, "numpy's": lambda: _own_of_numpy}


@pytest.fixture
def _generators_as_they_were() -> Any:
    python, numpys = random.getstate(), numpy.random.get_state()
    yield
    random.setstate(python)
    numpy.random.set_state(numpys)


@pytest.mark.usefixtures("_generators_as_they_were")
@pytest.mark.parametrize("kind", [*SHARED, *(f"{kind}, made in the call" for kind in OWN)])
@pytest.mark.parametrize("prove", ["auto", "trust", "verify"])
def test_seeds_of_the_calls_own(kind: str, prove: Any, runtime: torchpool.Runtime) -> None:
    chances = {**SHARED, **{f"{name}, made in the call": make for name, make in OWN.items()}}
    model = build(lambda: Noisy(chances[kind]()))
    calls = [(x,) for x in draws(60, 1, 8)]
    expected = [eager(model, *call) for call in calls]
    predict = torchpool.wrap(model, prove=prove, runtime=runtime)
    ways = [
        run_threads(8, lambda number: [predict(*call) for call in calls[number::8]]),  # and learn from them
        run_threads(8, lambda number: [predict(*call) for call in calls[number::8]]),
    ]
    for parts in ways:
        for number in range(8):
            for result, want in zip(parts[number], expected[number::8], strict=True):
                assert_same(result, want)
    for results in (together(predict, runtime, calls), list(predict.starmap(calls))):
        for result, want in zip(results, expected, strict=True):
            assert_same(result, want)
    contract = predict.explain().contracts[0]
    assert contract.mode == "alone"
    if kind in SHARED:
        assert contract.serial, contract.reason
        assert "random numbers" in str(contract.reason)


@pytest.mark.usefixtures("_generators_as_they_were")
def test_whose_numbers_are_drawn() -> None:
    def found(chance: Callable[[int], Tensor]) -> str | None:
        model = build(lambda: Noisy(chance))
        draws = PlainDraws(model)
        draws.watched(lambda: eager(model, draw(1, 8)))()
        return draws.drawn

    assert "numpy's" in str(found(_numpy))
    assert "Python's" in str(found(_python))
    assert found(_own) is None
    assert found(_own_of_numpy) is None


class Shuffles(nn.Linear):
    """Its training draws, and its forward does not."""

    def batches(self, xs: list[Tensor]) -> list[Tensor]:
        random.shuffle(xs)
        return [xs[i] for i in numpy.random.permutation(len(xs))]


def test_what_a_model_draws_elsewhere_ends_no_batch(runtime: torchpool.Runtime) -> None:
    model = build(lambda: Shuffles(4, 3))
    predict = torchpool.wrap(model, example=draw(1, 4), backend="python", prove="trust", runtime=runtime)
    assert predict.explain().contracts[0].mode == "merge"
    assert predict.submit(draw(1, 4)).result(HANG).shape == (1, 3)
