"""The graph backend: equal to eager from many threads, never stale, and honest about what it cannot do."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import HANG, LSTMClassifier, SimpleCNN, assert_close, build, draw, draws, eager, run_threads
from torch import nn

import torchpool
from torchpool.capture import linear_choice

pytestmark = pytest.mark.graphs


class Net(nn.Module):
    """Large enough for its linear layers to be packed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 1024)
        self.last = nn.Linear(1024, 64)
        self.scale = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x))) * self.scale


def wrap(model: nn.Module, example: Any, **options: Any) -> torchpool.Predictor:
    predict = torchpool.wrap(model, example=example, backend="graph", **options)
    assert predict.explain().served_by == ("graph",)
    return predict


def graph_runs(predict: torchpool.Predictor) -> tuple[str, ...]:
    assert predict.ready(HANG)
    return predict.explain().served_by


@pytest.mark.parametrize(("cls", "size"), [(LSTMClassifier, (1, 50, 10)), (SimpleCNN, (1, 1, 28, 28)), (Net, (1, 64))])
def test_equal_to_eager_from_many_threads(cls: type[nn.Module], size: tuple[int, ...]) -> None:
    model = build(cls)
    xs = draws(40, *size)
    expected = [eager(model, x) for x in xs]
    with wrap(model, xs[0]) as predict:

        def work(number: int) -> None:
            for i in range(len(xs)):
                assert_close(predict(xs[(i + number) % len(xs)]), expected[(i + number) % len(xs)])

        run_threads(8, work)
        for y, want in zip(predict.map(xs), expected, strict=True):
            assert_close(y, want)
        stats = predict.stats()
    assert stats["accepted"] == stats["resolved"] == stats["succeeded"]
    assert stats["fell_back"] == 0


def test_learned_from_the_first_call_it_serves_meanwhile() -> None:
    model, xs = build(Net), draws(20, 1, 64)
    with torchpool.wrap(model, backend="graph") as predict:
        for x in xs:
            assert_close(predict(x), eager(model, x))
        assert graph_runs(predict) == ("graph",)
        for x in xs:
            assert_close(predict(x), eager(model, x))


def test_graphs_run_while_a_model_in_python_holds_its_lane(hold: Any, runtime: torchpool.Runtime) -> None:
    model, xs = build(Net), draws(30, 1, 64)
    with wrap(model, xs[0], runtime=runtime) as predict:
        held = hold(runtime=runtime)
        held.hold()
        futures = [predict.submit(x) for x in xs]
        for future, x in zip(futures, xs, strict=True):
            assert_close(future.result(HANG), eager(model, x))
        assert predict.stats()["fell_back"] == 0
        held.gate.open()


def _fill(model: Net) -> None:
    with torch.no_grad():
        model.first.weight.mul_(1.5)


def _data(model: Net) -> None:
    model.last.weight.data.mul_(0.5)


def _replace_data(model: Net) -> None:
    model.last.weight.data = model.last.weight.data * 2


def _load(model: Net) -> None:
    model.load_state_dict({name: value * 1.1 for name, value in model.state_dict().items()})


def _numpy(model: Net) -> None:
    model.last.bias.detach().numpy()[:] = 3.0


def _submodule(model: Net) -> None:
    model.last = build(lambda: nn.Linear(1024, 64))


def _attribute(model: Net) -> None:
    model.scale = 2.0


def _hook(model: Net) -> None:
    model.last.register_forward_hook(lambda module, args, output: output + 1)


def _adapter(model: Net) -> None:
    nn.utils.parametrizations.weight_norm(model.last).eval()
    with torch.no_grad():
        model.last.parametrizations.weight.original0.mul_(2)


def _double(model: Net) -> None:
    model.first.weight = nn.Parameter(model.first.weight.detach() * 2)


def _step(fused: bool) -> Callable[[Net], None]:
    def step(model: Net) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=fused)
        with torch.enable_grad():
            model(torch.ones(2, 64)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


CHANGES = {
    "in place": _fill,
    "p.data.mul_": _data,
    "p.data =": _replace_data,
    "load_state_dict": _load,
    "numpy": _numpy,
    "submodule": _submodule,
    "attribute": _attribute,
    "hook": _hook,
    "adapter": _adapter,
    "parameter": _double,
    "plain optimiser": _step(False),
    "fused optimiser": _step(True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_by_the_next_call(change: str) -> None:
    model, xs = build(Net), draws(4, 1, 64)
    with wrap(model, xs[0]) as predict:
        before = predict(xs[0])
        CHANGES[change](model)
        assert not torch.allclose(eager(model, xs[0]), before)  # the change matters
        for _ in range(3):
            for x in xs:
                assert_close(predict(x), eager(model, x))
                assert_close(predict.submit(x).result(HANG), eager(model, x))
        assert graph_runs(predict) == (("python",) if change == "hook" else ("graph",))
        for y, x in zip(predict.map(xs), xs, strict=True):
            assert_close(y, eager(model, x))


def test_weights_that_move_all_the_time_are_never_stale() -> None:
    model, x = build(Net), draw(1, 64)
    with wrap(model, x) as predict:
        for step in range(60):
            with torch.no_grad():
                model.last.bias.fill_(float(step))
            assert_close(predict.submit(x).result(HANG), eager(model, x))


def test_results_beside_a_trainer_hold_no_other_states_than_the_weights_had() -> None:
    model, x = build(Net), draw(1, 64)
    first = eager(model, x)
    with wrap(model, x) as predict:
        with torch.no_grad():
            model.last.bias.add_(100.0)
        second = eager(model, x)
        stop = threading.Event()

        def train() -> None:
            at = 100.0
            while not stop.is_set():
                at = -at
                with torch.no_grad():
                    model.last.bias.add_(at)

        trainer = threading.Thread(target=train)
        trainer.start()
        try:
            results = [predict.submit(x).result(HANG) for _ in range(200)]
        finally:
            stop.set()
            trainer.join()
    for y in results:  # a torn bias may mix within one row; each value is that of one of the states
        near = torch.minimum((y - first).abs(), (y - second).abs())
        assert float(near.max()) < 1e-3


def test_what_cannot_be_captured_is_refused_with_examples_and_served_without() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if bool((x == 12345.0).any()) else x * 2

    x = draw(1, 4)
    with pytest.raises(ValueError, match=r"backend='graph': .*backend='auto' serves such calls by the module"):
        torchpool.wrap(build(Branches), example=x, backend="graph")
    with torchpool.wrap(build(Branches), backend="graph") as predict:
        assert_close(predict(x), x * 2)
        assert graph_runs(predict) == ("python",)
        predict.ready(HANG)
        assert "run alone, side by side: a branch or a size depends on values, test_graph.py:" in str(predict.explain())


def test_only_modules_have_graphs() -> None:
    with pytest.raises(TypeError, match=r"backend 'graph' needs an nn\.Module"):
        torchpool.wrap(lambda x: x, example=draw(1, 4), backend="graph")
    with pytest.raises(TypeError, match=r"dtype= needs an nn\.Module"):
        torchpool.wrap(build(Net), backend="python", dtype=torch.bfloat16)


def test_a_bad_call_raises_the_modules_own_error() -> None:
    model = build(lambda: nn.Embedding(10, 4))
    x = torch.tensor([[1, 2, 3]])
    with wrap(model, x) as predict:
        futures = [predict.submit(x), predict.submit(torch.tensor([[1, 99, 3]])), predict.submit(x)]
        assert_close(futures[0].result(HANG), eager(model, x))
        with pytest.raises(IndexError):
            futures[1].result(HANG)
        assert predict.stats()["fell_back"] == 1
        assert_close(futures[2].result(HANG), eager(model, x))


def test_ambient_state_is_served_by_the_module() -> None:
    model, x = build(Net), draw(1, 64)
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    with wrap(model, x) as predict:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert predict(x).dtype == torch.bfloat16

        def inside() -> None:
            variable.set(1)
            assert_close(predict.submit(x).result(HANG), eager(model, x))

        contextvars.copy_context().run(inside)


def test_bfloat16_keeps_dtypes_and_tells_its_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_choice, "forced", linear_choice.OWN)
    model, xs = build(Net), draws(10, 1, 64)
    with wrap(model, xs[0], dtype=torch.bfloat16) as predict:
        for y, x in zip(predict.map(xs), xs, strict=True):
            want = eager(model, x)
            assert y.dtype == want.dtype == torch.float32
            difference = float((y - want).abs().max() / want.abs().max())
            assert 0 < difference < 0.05
        told = str(predict.explain())
        assert "computed in torch.bfloat16: differs by" in told or "weights: bf16 in 2 of 2 linear layers" in told


def test_results_are_ordinary_tensors_of_their_own() -> None:
    model, x = build(Net), draw(1, 64)
    with wrap(model, x) as predict:
        one, other = predict(x), predict.submit(x).result(HANG)
        for y in (one, other):
            assert not y.is_inference() and not y.requires_grad
            y.add_(1)
        assert_close(predict(x), eager(model, x))


def test_the_module_can_be_trained_afterwards() -> None:
    model, x = build(Net), draw(1, 64)
    with wrap(model, x) as predict:
        predict(x)
    model.train()
    model(x).sum().backward()
    assert model.first.weight.grad is not None
