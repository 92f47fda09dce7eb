"""Learning of a model that draws leaves the generators where the call alone would have left them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from support import assert_close, build, draw, eager
from torch import nn

import torchpool
from torchpool.contract.probe import PlainDraws, generators


class Adds(nn.Module):
    """A number that it draws."""

    def __init__(self, generator: Any, number: Callable[[Any], float]) -> None:
        super().__init__()
        self.linear, self.generator, self.number = nn.Linear(4, 3), generator, number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.number(self.generator)


def _uniform(generator: Any) -> float:
    return float(generator.random())


GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], float]]] = {
    "Python's own": (lambda: random.Random(3), _uniform),
    "numpy's own": (lambda: numpy.random.default_rng(3), _uniform),
    "numpy's other own": (lambda: numpy.random.default_rng(numpy.random.MT19937(3)), _uniform),
    "numpy's old own": (lambda: numpy.random.RandomState(3), lambda generator: float(generator.randn())),
    "torch's own": (
        lambda: torch.Generator().manual_seed(3),
        lambda generator: float(torch.rand(1, generator=generator)),
    ),
    "Python's": (lambda: random.seed(3), lambda none: random.random()),
    "numpy's": (lambda: numpy.random.seed(3), lambda none: float(numpy.random.rand())),
}


@pytest.fixture(autouse=True)
def _as_they_were() -> Iterator[None]:
    python, numpys = random.getstate(), numpy.random.get_state()
    yield
    random.setstate(python)
    numpy.random.set_state(numpys)


@pytest.mark.parametrize("name", GENERATORS)
def test_the_numbers_are_those_of_the_model_by_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not name.endswith("own"):  # anybody may draw from these: it is put back where others are known to rest
        monkeypatch.setattr(generators, "_times", lambda: {1: "2"})
    make, number = GENERATORS[name]
    x = draw(1, 4)
    model = build(lambda: Adds(make(), number))
    expected = [eager(model, x) for _ in range(4)]
    predict = torchpool.wrap(build(lambda: Adds(make(), number)))
    for want in expected:
        assert_close(predict(x), want)
    assert predict.explain().contracts[0].serial


def test_a_draw_that_values_decide_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "_times", lambda: {1: "2"})

    class Seldom(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand(1) if bool((x.abs() > 0.9).any()) else x * 2

    before = torch.get_rng_state()
    predict = torchpool.wrap(Seldom().eval())
    x = torch.full((1, 4), 0.8)
    assert_close(predict(x), x * 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert "draws random numbers" in str(predict.explain().contracts[0].reason)


def test_a_draw_of_a_later_run_is_seen() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chance = random.Random(0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.chance.random() if len(x) > 1 else x

    model = Odd()
    draws = PlainDraws(model)
    run = draws.watched(lambda x: eager(model, x))
    before = model.chance.getstate()
    run(draw(1, 4))
    assert draws.drawn is None
    run(draw(2, 4))
    assert "Python's" in str(draws.drawn)
    draws.put_back()
    assert model.chance.getstate() == before


def test_what_others_draw_between_runs_stays_drawn() -> None:
    model = build(lambda: Adds(random.Random(3), _uniform))
    draws = PlainDraws(model)
    run = draws.watched(lambda: eager(model, draw(1, 4)))
    run()
    model.generator.random()
    after = model.generator.getstate()
    run()
    draws.put_back()
    assert model.generator.getstate() == after
    run()
    model.generator.random()
    last = model.generator.getstate()
    draws.put_back()
    assert model.generator.getstate() == last


def test_a_thread_that_runs_does_not_rest() -> None:
    turn, back, over = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        turn.wait()
        back.set()
        over.wait()

    thread = threading.Thread(target=work)
    thread.start()
    others = generators.Others()
    turn.set()
    back.wait()
    assert not others.rested()
    over.set()
    thread.join()
