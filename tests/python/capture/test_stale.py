"""A model that changes after it was wrapped: its calls see the change, or are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bad_models import batches_together
from support import HANG, assert_close, build, draw, draws, eager, run_threads
from torch import nn

import torchpool

pytestmark = pytest.mark.graphs

Tensor = torch.Tensor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)
        self.register_buffer("shift", torch.zeros(3))
        self.scale, self.center = 1.0, False

    def forward(self, x: Tensor) -> Tensor:
        if self.center:
            x = x - x.mean()
        return self.last(self.act(self.first(x))) * self.scale + self.shift


def _load(model: Any) -> None:
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


def _in_place(model: Any) -> None:
    with torch.no_grad():
        model.first.weight.mul_(3)


def _through_data(model: Any) -> None:
    model.first.weight.data.mul_(3)


def _through_numpy(model: Any) -> None:
    model.first.weight.detach().numpy()[:] *= 3


def _replace_parameter(model: Any) -> None:
    model.last.weight = nn.Parameter(torch.ones(3, 8))


def _replace_submodule(model: Any) -> None:
    model.act = nn.Tanh()


def _replace_by_another_size(model: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        model.last = nn.Linear(8, 3).eval()
        model.first = nn.Linear(4, 8).eval()


def _buffer(model: Any) -> None:
    model.shift += 5


def _attribute(model: Any) -> None:
    model.scale = 7.0


def _hook(model: Any) -> None:
    model.last.register_forward_hook(lambda module, inputs, output: output * 2)


def _optimizer_step(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(draw(5, 4)).sum().backward()
    optimizer.step()


CHANGES = [
    _load, _in_place, _through_data, _through_numpy, _replace_parameter, _replace_submodule, _replace_by_another_size,
    _buffer, _attribute, _hook, _optimizer_step,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_by_the_next_calls(change: Any, runtime: torchpool.Runtime) -> None:
    model = build(Net)
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    calls = [(draw(1 + i % 2, 4, seed=i),) for i in range(5)]
    predict.ready(HANG)
    assert predict.explain().served_by == ("graph",)
    assert batches_together(predict, runtime, calls) >= 1
    before = predict(draw(1, 4))
    change(model)
    assert batches_together(predict, runtime, calls) >= 1
    assert not torch.equal(predict(draw(1, 4)), before)


class Centered(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean()


def _leaky_submodule(model: Any) -> None:
    model.act = Centered().eval()


def _leaky_hook(model: Any) -> None:
    model.act.register_forward_hook(lambda module, inputs, output: output - output.mean())


def _leaky_flag(model: Any) -> None:
    model.center = True


@pytest.mark.parametrize("change", [_leaky_submodule, _leaky_hook])
def test_a_change_that_makes_rows_depend_on_each_other_is_seen(change: Any, runtime: torchpool.Runtime) -> None:
    model = build(Net)
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    predict.ready(HANG)
    change(model)
    for rows in (1, 2):  # sizes that the module has not seen are no matter for a worker
        predict(draw(rows, 4))
    assert batches_together(predict, runtime, [(draw(1 + i % 2, 4, seed=i),) for i in range(6)]) == 6


@pytest.mark.parametrize("change", [_leaky_submodule, _leaky_hook, _leaky_flag])
def test_refresh_learns_a_changed_model_anew(change: Any, runtime: torchpool.Runtime) -> None:
    model = build(Net)
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    change(model)
    predict.refresh()
    for rows in (1, 2):
        predict(draw(rows, 4))
    batches_together(predict, runtime, [(draw(1 + i % 2, 4, seed=i),) for i in range(6)])
    predict.ready(HANG)
    [contract] = predict.explain().contracts
    assert contract.mode == "alone" or (contract.rows is not None and contract.rows.kind == "lifted")


def test_a_model_moved_to_another_dtype_is_served_in_it(runtime: torchpool.Runtime) -> None:
    model = build(Net)
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    model.double()
    calls = [(x.double(),) for x in draws(5, 1, 4)]
    predict(calls[0][0])
    predict.ready(HANG)
    assert predict.explain().served_by == ("graph",)
    assert batches_together(predict, runtime, calls) >= 1
    with pytest.raises(TypeError, match="has dtype float32, expected float64"):
        predict(draw(1, 4))


def test_weights_that_change_between_batches_are_never_mixed() -> None:
    model = build(Net)
    predict = torchpool.wrap(model, example=draw(1, 4))
    for step in range(10):
        with torch.no_grad():
            model.last.bias.fill_(float(step))
        for x, y in zip(draws(8, 1, 4), predict.map(draws(8, 1, 4)), strict=True):
            assert_close(y, eager(model, x))


def test_a_model_can_be_trained_after_it_was_used() -> None:
    model = build(Net)
    predict = torchpool.wrap(model, example=draw(1, 4))
    predict(draw(2, 4))
    list(predict.map(draws(5, 1, 4)))
    model.train()
    model(draw(5, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    assert_close(predict(draw(2, 4)), eager(model, draw(2, 4)))


class Caching(nn.Module):
    """Keeps a table that it computes from its weights at the first call, as rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(4.0).exp()
        return self.linear(x) * self.table


@pytest.mark.parametrize("with_example", [False, True])
def test_a_tensor_cached_in_forward_is_fit_for_training(with_example: bool) -> None:
    model = build(Caching)
    predict = torchpool.wrap(model, example=draw(1, 4) if with_example else None)
    run_threads(4, lambda number: assert_close(predict(draw(1, 4, seed=number)), eager(model, draw(1, 4, seed=number))))
    assert model.table is not None and not model.table.is_inference()
    model(draw(2, 4)).sum().backward()
    assert model.linear.weight.grad is not None
