"""Calls that go to the module itself, unchanged: nothing of them is learned, and they cost next to nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from inplace_support import Classifier, came, classifier, entrance_counts, serve_once, x
from support import assert_close, build, draw, eager
from torch import nn

import torchpool


def test_train_mode_goes_to_the_module() -> None:
    model = torchpool.accelerate(classifier()).train()
    model(x()).sum().backward()
    assert model.inner.weight.grad is not None
    assert (came(model), came(model, "train mode")) == (0, 1)
    model.eval()
    serve_once(model, x())


def test_a_submodule_in_train_mode_is_heeded() -> None:
    """Of dropout that its user has turned on, to sample from the model."""

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop = nn.Linear(10, 100), nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.drop(self.layer(x))

    model = torchpool.accelerate(build(Dropping))
    model.drop.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for _ in range(10):
            zeros = int((model(x()) == 0).sum())
            assert 10 < zeros < 90, "dropout is on"
    model.drop.eval()
    with torch.no_grad():
        for _ in range(5000):
            assert_close(model(x()), model.layer(x()))
            if came(model) > 0:
                break
    assert came(model) > 0, entrance_counts(model)


def test_results_have_the_gradients_of_the_module(caplog: pytest.LogCaptureFixture) -> None:
    plain, model = classifier(), torchpool.accelerate(classifier())
    for _ in range(3):
        result = model(x())
        assert result.grad_fn is not None
    result.sum().backward()
    plain(x()).sum().backward()
    assert torch.equal(model.inner.weight.grad, plain.inner.weight.grad)
    assert (came(model), came(model, "gradients")) == (0, 3)
    told = [record.message for record in caplog.records if "torch.no_grad()" in record.message]
    assert len(told) == 1, "said once"
    notes = torchpool.predictor_of(model).explain().notes
    assert any("torch.no_grad()" in note and note.startswith("3 calls") for note in notes)


def test_frozen_weights_give_results_without_gradients_which_are_served() -> None:
    model = torchpool.accelerate(classifier()).requires_grad_(False)
    for _ in range(3):
        assert not model(x()).requires_grad
    assert came(model) == 2
    wanting = x().requires_grad_()
    model(wanting).sum().backward()
    assert wanting.grad is not None
    assert (came(model), came(model, "input gradients")) == (2, 1)
    model.outer.bias.requires_grad_()
    assert model(x()).requires_grad


class PlainTensor(nn.Module):
    """A tensor with gradients that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(1, requires_grad=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def test_a_tensor_among_the_attributes_counts_as_a_weight() -> None:
    model = torchpool.accelerate(build(PlainTensor))
    for _ in range(3):
        assert model(x()).requires_grad


class Caching(nn.Module):
    """Writes to its arguments in each way that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor, to: Any = None) -> torch.Tensor:
        y = self.layer(x)
        if isinstance(to, list):
            to.append(y)
        elif isinstance(to, dict):
            to["y"] = y
        elif isinstance(to, torch.Tensor):
            to.copy_(y)
        elif isinstance(to, tuple):
            to[0].append(y)
        elif to is not None:
            to.y = y
        return y


class Cache:
    y: torch.Tensor | None = None


@pytest.mark.parametrize("kind", ["list", "dict", "tensor", "nested", "object"])
def test_what_forward_writes_is_written_once_for_each_call(kind: str) -> None:
    model = torchpool.accelerate(build(Caching))
    make: Any = {
        "list": list,
        "dict": dict,
        "tensor": lambda: torch.zeros(1, 3),
        "nested": lambda: ([],),
        "object": Cache,
    }[kind]
    for seed in range(4):
        to = make()
        result = eager(model, x(seed), to)
        written = {"list": lambda to=to: to[0], "dict": lambda to=to: to["y"], "tensor": lambda to=to: to}.get(
            kind, lambda to=to: to[0][0] if kind == "nested" else to.y
        )()
        assert_close(written, result)
        assert not isinstance(to, list) or len(to) == 1
    assert came(model) == 0
    predictor = torchpool.predictor_of(model)
    assert predictor.stats()["accepted"] == 0, "none of them was probed"
    serve_once(model, x())


def test_hooks_see_each_call_and_the_module_itself() -> None:
    plain, model = classifier(), torchpool.accelerate(classifier())
    serve_once(model, x())
    seen: list[Any] = []
    hook = model.register_forward_hook(lambda module, args, output: seen.append((module, args[0], output)))
    for seed in range(3):
        assert_close(eager(model, x(seed)), eager(plain, x(seed)))
    assert [module is model for module, _, _ in seen] == [True] * 3
    assert torch.equal(seen[1][1], x(1))
    assert came(model, "hooks") == 3
    hook.remove()
    serve_once(model, x())


def test_hooks_for_all_modules_see_each_call() -> None:
    model = torchpool.accelerate(classifier())
    serve_once(model, x())
    seen: list[nn.Module] = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module))
    try:
        eager(model, x())
    finally:
        hook.remove()
    assert sum(module is model for module in seen) == 1
    serve_once(model, x())


def test_a_forward_that_is_set_on_the_object() -> None:
    """Before, or later around the accelerated one: each call is what the plain module would give."""
    for early in (True, False):
        plain, model = classifier(), classifier()
        if not early:
            torchpool.accelerate(model)
        for one in (plain, model):
            inner = one.forward
            one.forward = lambda a, inner=inner: inner(a) + 1  # type: ignore[method-assign]
        if early:
            torchpool.accelerate(model)
        for seed in range(4):
            assert_close(eager(model, x(seed)), eager(plain, x(seed)))
            assert_close(eager(model.forward, x(seed)), eager(plain.forward, x(seed)))


def test_a_class_with_a_call_of_its_own() -> None:
    class Called(Classifier):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs) + 1

    plain, model = build(Called), torchpool.accelerate(build(Called))
    for seed in range(4):
        assert_close(eager(model, x(seed)), eager(plain, x(seed)))
        assert_close(eager(model.forward, x(seed)), eager(plain.forward, x(seed)))
    assert came(model) == 3


def test_another_class_that_it_gets_later_is_heeded() -> None:
    model = torchpool.accelerate(build(lambda: nn.Linear(10, 3)))
    serve_once(model, x())
    weight = model.weight.detach().clone()
    nn.utils.parametrizations.weight_norm(model)
    model.parametrizations.weight.original0.data.mul_(2)
    assert_close(eager(model, x()), eager(nn.functional.linear, x(), 2 * weight, model.bias.detach()))
    nn.utils.parametrize.remove_parametrizations(model, "weight")
    assert_close(eager(model, x()), eager(nn.functional.linear, x(), 2 * weight, model.bias.detach()))


def test_a_parametrized_module_is_served_and_may_be_freed_of_that() -> None:
    model = build(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(10, 3)))
    expected = eager(model, x())
    torchpool.accelerate(model)
    assert_close(serve_once(model, x()), expected)
    nn.utils.parametrize.remove_parametrizations(model, "weight")
    assert type(model) is nn.Linear
    assert_close(eager(model, x()), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:.*LeafSpec:FutureWarning")
def test_what_follows_its_code_follows_that_of_the_module() -> None:
    """torch.jit, torch.export, torch.compile, functorch, functional_call, and modes."""
    plain, model = classifier(), torchpool.accelerate(classifier())
    expected = eager(plain, x())
    assert_close(eager(torch.jit.script(model), x()), expected)
    assert_close(eager(torch.jit.trace(model, x(), check_trace=False), x()), expected)
    assert_close(eager(torch.export.export(model, (x(),)).module(), x()), expected)
    assert_close(eager(torch.export.export(model, (x(),), strict=True).module(), x()), expected)
    assert_close(eager(torch.compile(model, backend="eager", fullgraph=True), x()), expected)
    many = draw(3, 1, 10)
    assert_close(eager(torch.func.vmap(model), many), eager(torch.func.vmap(plain), many))
    state = {name: weight * 2 for name, weight in plain.state_dict().items()}
    call = torch.func.functional_call
    assert_close(eager(call, model, state, (x(),)), eager(call, plain, state, (x(),)))
    assert came(model) == 0, entrance_counts(model)


def test_lazy_modules_are_served_once_they_have_weights(seeded: None) -> None:
    whole = torchpool.accelerate(build(lambda: nn.Sequential(nn.LazyLinear(4))))
    with pytest.raises(RuntimeError, match="first call"):
        torchpool.predictor_of(whole)
    first = eager(whole, x())
    assert type(whole[0]) is nn.Linear
    assert_close(serve_once(whole, x()), first)

    itself = torchpool.accelerate(build(lambda: nn.LazyLinear(4)))
    first = eager(itself, x())
    assert isinstance(itself, nn.Linear)
    assert not isinstance(itself, nn.LazyLinear)
    assert_close(serve_once(itself, x()), first)
    torchpool.restore(itself)
    assert type(itself) is nn.Linear


class GoesOnFromOwnType(Classifier):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super(type(self), self).forward(x) + 1

    def other(self, x: torch.Tensor) -> torch.Tensor:
        return super(self.__class__, self).forward(x)


def test_code_that_goes_on_from_its_own_type_does_not_come_back_to_itself() -> None:
    plain, model, third = build(GoesOnFromOwnType), build(GoesOnFromOwnType), build(GoesOnFromOwnType)
    torchpool.accelerate(model)
    for one in (model, third):
        for seed in range(3):
            assert_close(eager(one, x(seed)), eager(plain, x(seed)))
            assert_close(eager(one.other, x(seed)), eager(plain.other, x(seed)))
    assert came(model) == 2
    torchpool.restore(model)
    assert "_torchpool_entrance" not in vars(GoesOnFromOwnType)
    assert_close(eager(model, x()), eager(plain, x()))


def test_a_graph_module_is_served_and_may_be_recompiled() -> None:
    model = torch.fx.symbolic_trace(classifier())
    expected = eager(model, x())
    torchpool.accelerate(model)
    assert_close(serve_once(model, x()), expected)
    with model.graph.inserting_before(next(node for node in model.graph.nodes if node.op == "output")):
        last = next(node for node in model.graph.nodes if node.op == "output")
        last.args = (model.graph.call_function(torch.neg, (last.args[0],)),)
    model.recompile()
    assert_close(eager(model, x()), -expected)
    torchpool.restore(model)
    assert_close(eager(model, x()), -expected)
