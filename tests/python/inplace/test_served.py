"""Calls that enter an accelerated module from outside are served, and give what the plain one gives."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from inplace_support import Classifier, came, classifier, entrance_counts, serve_once, x
from support import assert_all_close, assert_close, build, draw, draws, eager
from torch import nn

import torchpool


def test_it_is_the_same_object_of_a_class_that_goes_by_the_same_name() -> None:
    model = classifier()
    signature = inspect.signature(model.forward)
    assert torchpool.accelerate(model) is model
    assert isinstance(model, Classifier)
    cls = type(model)
    assert (cls.__name__, cls.__qualname__, cls.__module__) == ("Classifier", "Classifier", Classifier.__module__)
    assert inspect.signature(model.forward) == signature
    assert cls.__doc__ == Classifier.__doc__
    assert repr(model) == repr(classifier())
    assert list(model.state_dict()) == list(classifier().state_dict())


@pytest.mark.parametrize("way", ["call", "forward", "keyword"])
def test_calls_from_outside_are_served(way: str) -> None:
    plain, model = classifier(), torchpool.accelerate(classifier())
    with torch.no_grad():
        for seed in range(4):
            result = {
                "call": lambda a: model(a),
                "forward": lambda a: model.forward(a),
                "keyword": lambda a: model(x=a, scale=2.0),
            }[way](x(seed))
            assert_close(result, eager(plain, x(seed), 2.0 if way == "keyword" else 1.0))
    assert (came(model, "first of its kind"), came(model)) == (1, 3)


def test_calls_by_its_own_methods_are_served() -> None:
    plain, model = classifier(), torchpool.accelerate(classifier())
    for seed in range(4):
        assert model.predict(x(seed)) == plain.predict(x(seed))
        assert model.label(x(seed)) == plain.label(x(seed))
    assert came(model) == 7


@pytest.mark.graphs
def test_a_graph_serves_calls_of_own_methods_from_many_threads_in_batches() -> None:
    plain, model = classifier(), torchpool.accelerate(classifier())
    inputs = draws(200, 1, 10)
    expected = [plain.predict(one) for one in inputs]
    serve_once(model, inputs[0])
    predictor = torchpool.predictor_of(model)
    assert predictor.ready(60)
    assert predictor.explain().served_by == ("graph",)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(model.predict, inputs)) == expected
    assert came(model) > 200
    assert any("accelerated in place" in note for note in predictor.explain().notes)


class Recursive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 10)
        self.step = self.bound  # a reference to itself
        self.calls = 0

    def bound(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward(x, 0)

    def forward(self, x: torch.Tensor, deep: int = 2) -> torch.Tensor:
        return self.layer(x) if deep == 0 else self(x, deep - 1) + self.step(x)


@pytest.mark.graphs
@pytest.mark.parametrize("backend", ["auto", "python"])
def test_what_a_call_runs_inside_goes_to_the_module(backend: str) -> None:
    plain, model = build(Recursive), torchpool.accelerate(build(Recursive), backend=backend)
    for seed in range(3):
        assert_close(serve_once(model, x(seed)), eager(plain, x(seed)))
    assert torchpool.predictor_of(model).ready(60)
    with torch.no_grad():
        assert_close(model(x(5)), eager(plain, x(5)))
    assert (came(model, "first of its kind"), came(model)) == (1, 6), entrance_counts(model)


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.last = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(x))


@pytest.mark.graphs
@pytest.mark.parametrize("backend", ["auto", "python"])
def test_of_modules_in_one_another_the_outermost_serves(backend: str) -> None:
    torch_model = build(lambda: Outer(Classifier()))
    plain = build(lambda: Outer(Classifier()))
    model = torchpool.accelerate(torch_model, backend=backend)
    torchpool.accelerate(model.inner, backend=backend)
    assert_close(serve_once(model, x()), eager(plain, x()))
    assert torchpool.predictor_of(model).ready(60)
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        results = list(pool.map(torch.no_grad()(model), [x(seed) for seed in range(20)]))
    assert_all_close(results, [eager(plain, x(seed)) for seed in range(20)])
    assert entrance_counts(model.inner) == {}, "nothing of the outer module's calls came to the inner one's predictor"
    assert_close(serve_once(model.inner, x(1)), eager(plain.inner, x(1)))


def test_a_wrapped_function_that_calls_it_is_served_by_it() -> None:
    plain, model = classifier(), torchpool.accelerate(classifier())
    predict = torchpool.wrap(lambda a: model(a).argmax().item())
    for seed in range(3):
        assert predict(x(seed)) == plain.label(x(seed))
    assert came(model) == 2


def test_a_change_of_its_weights_holds_for_the_next_call() -> None:
    plain, model = classifier(), torchpool.accelerate(classifier())
    serve_once(model, x())
    state = {name: weight * 1.5 for name, weight in plain.state_dict().items()}
    plain.load_state_dict(state)
    model.load_state_dict(state)
    with torch.no_grad():
        assert_close(model(x()), eager(plain, x()))
        model.to(torch.float64)
        assert_close(model(x().double()), eager(plain.double(), x().double()))
        model.outer = build(lambda: nn.Linear(8, 5)).double()
        assert model(x().double()).shape == (1, 5)


def test_a_model_with_slots_and_attributes_of_its_own_making() -> None:
    class Slotted(Classifier):
        __slots__ = ("factor",)

        def __init__(self) -> None:
            super().__init__()
            self.factor = 2.0

        def __getattr__(self, name: str) -> object:
            return 3.0 if name == "made_up" else super().__getattr__(name)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.factor * self.made_up

    plain, model = build(Slotted), torchpool.accelerate(build(Slotted))
    assert_close(serve_once(model, x()), eager(plain, x()))


def test_objects_of_one_class_do_not_meet() -> None:
    one, other, plain = classifier(), classifier(), classifier()
    for model in (other, plain):
        model.outer.weight.data.mul_(2)
    torchpool.accelerate(one)
    torchpool.accelerate(other)
    serve_once(one, x())
    assert_close(serve_once(other, x()), eager(plain, x()))
    assert not hasattr(type(plain), "_torchpool_entrance")


def test_wrap_of_an_accelerated_module_shares_its_predictor() -> None:
    model = torchpool.accelerate(classifier(), max_batch=16)
    predictor = torchpool.predictor_of(model)
    assert torchpool.wrap(model) is predictor
    assert torchpool.wrap(model, max_batch=16) is predictor
    with pytest.raises(ValueError, match="accelerated, with other options"):
        torchpool.wrap(model, max_batch=8)
    assert predictor.model is model
    assert_close(predictor(x()), eager(classifier(), x()))
    assert_all_close(predictor.map(draw(4, 1, 10)), [eager(classifier(), one) for one in draw(4, 1, 10)])


def test_a_method_of_an_accelerated_module_may_be_wrapped() -> None:
    model = torchpool.accelerate(classifier())
    predict = torchpool.wrap(model.forward)
    assert_close(predict(x()), eager(classifier(), x()))
    assert predict is not torchpool.predictor_of(model)
