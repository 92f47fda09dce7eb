"""A module that goes to and fro between states: each that was served before is found again."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from support import HANG, assert_close, build, draw, draws, run_threads
from torch import nn

import torchpool
from torchpool.predictor import probes as probing

pytestmark = pytest.mark.graphs

Tensor = torch.Tensor


class Adapted(nn.Module):
    """As a layer of peft: a base, and of several small ones that which is chosen."""

    def __init__(self, names: str = "ab") -> None:
        super().__init__()
        self.base = nn.Linear(8, 8)
        self.small = nn.ModuleDict({name: nn.Linear(8, 8) for name in names})
        self.active = names[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.small[self.active](x)


class Stack(nn.Module):
    """Two of them, chosen together."""

    def __init__(self, names: str = "ab") -> None:
        super().__init__()
        self.layers = nn.Sequential(Adapted(names), nn.Tanh(), Adapted(names))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def choose(self, name: str) -> None:
        self.layers[0].active = self.layers[2].active = name


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows with each probe."""
    made: list[object] = []
    find = probing.find

    def counted(*args: object, **kwargs: object) -> object:
        made.append(args)
        return find(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(probing, "find", counted)
    return made


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def served_in(model: Stack, names: str) -> torchpool.Predictor:
    """A predictor that has answered calls in these states, by graphs."""
    predict = torchpool.wrap(model)
    for name in names:
        model.choose(name)
        predict(draw(1, 8))
        assert predict.ready(HANG)
        assert "by the graph backend" in str(predict.explain())
    return predict


def test_a_state_seen_before_is_neither_probed_nor_captured_again(probes: list[object]) -> None:
    """However often it changes; and each call is answered in the state in which it is made."""
    model = build(Stack)
    predict = served_in(model, "ab")
    count = len(probes)
    for number, x in enumerate(draws(60, 1, 8)):
        model.choose("ab"[number % 2])
        assert_close(predict(x), model(x))
    assert len(probes) == count
    assert "by the graph backend" in str(predict.explain())
    assert predict.stats()["fell_back"] == 0


def test_train_mode_is_a_state_too(probes: list[object]) -> None:
    """Of a module in which it changes nothing: a loop that trains and evaluates in turns."""
    model = build(Stack)
    predict = served_in(model, "a")
    count = len(probes)
    for _ in range(3):
        model.train()
        model.eval()
        x = draw(1, 8)
        assert_close(predict(x), model(x))
    assert len(probes) == count


def test_weights_that_changed_in_another_state_count() -> None:
    """A graph of a state that was put aside reads them as they are when the state is found again."""
    model = build(Stack)
    predict = served_in(model, "ab")
    with predict.updating():
        model.layers[0].base.weight.detach().numpy()[:] *= 3
    model.layers[2].small["a"].weight.mul_(2)
    for name in "ab":
        model.choose(name)
        x = draw(1, 8)
        assert_close(predict(x), model(x))


def test_other_weights_end_all_states(probes: list[object]) -> None:
    """What was put aside is of tensors that are no more: it is freed, and learned anew."""
    model = build(Stack)
    predict = served_in(model, "ab")
    count = len(probes)
    old = weakref.ref(model.layers[0].base.weight)
    model.layers[0].base.weight = nn.Parameter(torch.ones(8, 8))
    for name in "ab":
        model.choose(name)
        x = draw(1, 8)
        assert_close(predict(x), model(x))
    assert len(probes) > count
    assert predict.ready(HANG)
    gc.collect()
    assert old() is None


def test_many_states_are_kept_and_the_oldest_goes(probes: list[object]) -> None:
    """Memory is bounded."""
    names = "abcdefghijklmnopqrst"
    model = build(lambda: Stack(names))
    predict = torchpool.wrap(model, backend="auto")
    for name in names:
        model.choose(name)
        for x in draws(20, 1, 8):  # each lasts
            assert_close(predict(x), model(x))
    count = len(probes)
    for name in names[-5:]:
        model.choose(name)
        x = draw(1, 8)
        assert_close(predict(x), model(x))
    assert len(probes) == count
    assert predict.ready(HANG)


def test_states_that_never_last_are_not_learned_of(probes: list[object]) -> None:
    """A value that is another one at each call: calls go to the module."""
    model = build(Stack)
    predict = torchpool.wrap(model)
    for number, x in enumerate(draws(200, 1, 8)):
        model.layers[0].step = number
        assert_close(predict(x), model(x))
    assert len(probes) < 12


def test_a_state_that_lasts_after_many_that_did_not_is_learned(probes: list[object]) -> None:
    """Not for ever does the module answer alone."""
    model = build(lambda: Stack("abcdef"))
    predict = torchpool.wrap(model)
    for name in "abcdef":
        model.choose(name)
        predict(draw(1, 8))
    count = len(probes)
    for x in draws(40, 1, 8):
        assert_close(predict(x), model(x))
    assert len(probes) > count
    assert predict.ready(HANG)
    assert "by the graph backend" in str(predict.explain())


def test_a_capture_that_a_change_has_stopped_goes_on() -> None:
    """When its state lasts again."""
    model = build(Stack)
    predict = torchpool.wrap(model)
    for name in "abab":
        model.choose(name)
        predict(draw(1, 8))
    assert predict.ready(HANG)  # those of states that were left have stopped
    for x in draws(40, 1, 8):
        assert_close(predict(x), model(x))
    assert predict.ready(HANG)
    assert "by the graph backend" in str(predict.explain())


def test_threads_that_see_a_change_at_once_find_one_state() -> None:
    """The first one puts it in place, the others find it there."""
    model = build(Stack)
    predict = served_in(model, "ab")
    xs = draws(8, 1, 8)
    for number in range(40):
        model.choose("ab"[number % 2])
        wanted = [model(x) for x in xs]
        for got, want in zip(run_threads(8, lambda index: predict(xs[index])), wanted, strict=True):
            assert_close(got, want)


def test_refresh_forgets_every_state(probes: list[object]) -> None:
    """Of a change that leaves no trace nobody knows in which it is seen."""
    model = build(Stack)
    predict = served_in(model, "ab")
    count = len(probes)
    predict.refresh()
    for name in "ab":
        model.choose(name)
        predict(draw(1, 8))
    assert len(probes) == count + 2
