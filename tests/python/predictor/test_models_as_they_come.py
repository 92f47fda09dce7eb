"""Models that nobody tidied up: never put in eval mode, exported, traced, quantised, with lazy layers, sparse buffers.

They are served, and no text blames the mode where it changes nothing.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from bad_models import assert_same, outcome, together
from support import HANG, build, draw, draws, eager, run_threads
from torch import nn

import torchpool

Tensor = torch.Tensor

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def check(predict: torchpool.Predictor, runtime: torchpool.Runtime, calls: list[tuple[Any, ...]]) -> None:
    """Calls from one thread, together and from several threads give what the model gives."""
    expected = [outcome(predict.model, *call) for call in calls]
    ways = [[predict(*call) for call in calls], together(predict, runtime, calls)]
    ways.append(run_threads(len(calls), lambda number: predict(*calls[number])))
    for results in ways:
        for result, want in zip(results, expected, strict=True):
            assert_same(result, want)
    assert "train mode" not in str(predict.explain())


# --- train mode that changes nothing ----------------------------------------------------------------------------------


class Centred(nn.Module):
    """Its rows meet."""

    def __init__(self, rate: float | None = None) -> None:
        super().__init__()
        self.linear, self.rate = nn.Linear(8, 3), rate

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x - x.mean(0, keepdim=True))
        return y if self.rate is None else nn.functional.dropout(y, self.rate, self.training)


class Counted(nn.Module):
    """Has state."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


class Fits(Centred):
    def fit(self) -> None:
        self.train()
        self(torch.ones(2, 8))


IN_TRAIN_MODE: dict[str, Callable[[], nn.Module]] = {
    "rows meet": Centred,
    "rows meet, and a dropout of 0": lambda: nn.Sequential(nn.Dropout(0.0), Centred()),
    "rows meet, and a function's dropout of 0": lambda: Centred(0.0),
    "rows meet, and a fit()": Fits,
    "state": Counted,
    "rows are independent": lambda: nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4)),
}


@pytest.mark.parametrize("kind", IN_TRAIN_MODE)
def test_in_train_mode_without_a_part_that_it_changes(kind: str, runtime: torchpool.Runtime) -> None:
    model = build(IN_TRAIN_MODE[kind]).train()
    check(torchpool.wrap(model, runtime=runtime), runtime, [(draw(4, 8, seed=i),) for i in range(6)])
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("model", [Centred(0.5), nn.Sequential(nn.Dropout(), Centred()), nn.BatchNorm1d(8)])
@pytest.mark.usefixtures("seeded")
def test_in_train_mode_with_one_it_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="train mode"):
        torchpool.wrap(copy.deepcopy(model).train())(draw(4, 8))


@pytest.mark.graphs
def test_a_dropout_of_0_in_code_does_not_keep_a_graph_away() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(vocab_size=30, **sizes, **rates)
    model = build(lambda: transformers.BertModel(config)).train()
    predict = torchpool.wrap(model)
    ids = torch.arange(6).view(1, 6)
    predict(input_ids=ids)
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",), predict.explain()
    expected = eager(model, input_ids=ids + 3)
    assert_same(predict(input_ids=ids + 3), expected)
    assert model.training


# --- made of others ---------------------------------------------------------------------------------------------------


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def _static_int8() -> nn.Module:
    model = nn.Sequential(torch.ao.quantization.QuantStub(), *_net(), torch.ao.quantization.DeQuantStub()).eval()
    model.qconfig = torch.ao.quantization.default_qconfig  # type: ignore[assignment]
    prepared = torch.ao.quantization.prepare(model)
    prepared(draw(8, 16))
    converted: nn.Module = torch.ao.quantization.convert(prepared)
    return converted


class Stepped(nn.Module):
    """An int8 LSTM's last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.view(-1, 4, 4))[0][:, -1]


MADE: dict[str, Callable[[], nn.Module]] = {
    "exported": lambda: torch.export.export(_net(), (draw(1, 16),)).module(),
    "exported, free rows": lambda: torch.export.export(
        _net(), (draw(4, 16),), dynamic_shapes=({0: torch.export.Dim("rows", min=1, max=64)},)
    ).module(),
    "exported with batch norm in train mode": lambda: torch.export.export(
        nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4)).eval(), (draw(1, 16),)
    ).module(),
    "traced": lambda: torch.jit.trace(_net(), draw(1, 16)),
    "scripted": lambda: torch.jit.script(_net()),
    "symbolically traced": lambda: torch.fx.symbolic_trace(_net()),
    "int8, dynamic": lambda: torch.ao.quantization.quantize_dynamic(_net(), {nn.Linear}),
    "int8, dynamic, left in train mode": lambda: torch.ao.quantization.quantize_dynamic(_net(), {nn.Linear}).train(),
    "int8, dynamic LSTM": lambda: torch.ao.quantization.quantize_dynamic(Stepped().eval(), {nn.LSTM}),
    "int8, static": _static_int8,
    "int8, static, left in train mode": lambda: _static_int8().train(),
}


def build_as_is(make: Callable[[], nn.Module]) -> nn.Module:
    """With the same weights each time, and in the mode in which it is made."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


@pytest.mark.parametrize("kind", MADE)
def test_models_that_were_made_of_others(kind: str, runtime: torchpool.Runtime) -> None:
    model = build_as_is(MADE[kind])
    check(torchpool.wrap(model, runtime=runtime), runtime, [(x * (1 + i),) for i, x in enumerate(draws(6, 1, 16))])


@pytest.mark.graphs
@pytest.mark.parametrize("kind", ["exported, free rows", "int8, dynamic", "int8, static, left in train mode"])
def test_models_that_were_made_of_others_and_their_graphs(kind: str, runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build_as_is(MADE[kind]), runtime=runtime)
    predict(draw(1, 16))
    assert predict.ready(HANG)
    check(predict, runtime, [(x * (1 + i),) for i, x in enumerate(draws(6, 1, 16))])


# --- lazy layers ------------------------------------------------------------------------------------------------------


def _lazy() -> nn.Module:
    layers = nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    return nn.Sequential(*layers).eval()


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("options", [{}, {"backend": "python"}, {"batch": False}, {"example": draw(1, 2, 8)}])
def test_lazy_weights_are_made_by_one_call(options: dict[str, Any], runtime: torchpool.Runtime) -> None:
    oracle, model = _lazy(), _lazy()
    torch.manual_seed(1)
    calls = draws(8, 1, 2, 8)
    expected = [eager(oracle, x) for x in calls]
    torch.manual_seed(1)  # their first values are drawn by the call that makes them
    predict = torchpool.wrap(model, runtime=runtime, **options)
    for results in (
        run_threads(len(calls), lambda number: predict(calls[number])),
        together(predict, runtime, [(x,) for x in calls]),
    ):
        for result, want in zip(results, expected, strict=True):
            assert_same(result, want)
    for (name, one), other in zip(model.state_dict().items(), oracle.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.graphs
@pytest.mark.usefixtures("seeded")
def test_what_was_lazy_is_captured() -> None:
    predict = torchpool.wrap(_lazy(), example=draw(1, 2, 8))
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",), predict.explain()


@pytest.mark.usefixtures("seeded")
def test_a_first_call_that_lazy_layers_refuse_is_the_callers_error() -> None:
    predict = torchpool.wrap(_lazy())
    with pytest.raises(RuntimeError, match="input to LazyConv1d"):
        predict(draw(2, 8, 4, 4))
    assert predict(draw(1, 2, 8)).shape == (1, 3)


@pytest.mark.usefixtures("seeded")
def test_lazy_weights_can_be_trained_after_a_call_in_inference_mode() -> None:
    model = _lazy()
    predict = torchpool.wrap(model)
    with torch.inference_mode():
        predict(draw(1, 2, 8))
    model(draw(1, 2, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class TwoHeads(nn.Module):
    """One of which a method leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LazyLinear(4), nn.Sequential(nn.Flatten(), nn.LazyLinear(3))

    def forward(self, x: Tensor, deep: bool = True) -> Tensor:
        return self.second(self.first(x)) if deep else self.first(x)

    def embed(self, x: Tensor) -> Tensor:
        return self.first(x)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("options", [{}, {"backend": "python"}, {"batch": False}])
def test_lazy_weights_that_a_method_does_not_reach(options: dict[str, Any], runtime: torchpool.Runtime) -> None:
    model = TwoHeads().eval()
    embed = torchpool.wrap(model.embed, runtime=runtime, **options)
    calls = draws(6, 1, 8)
    results = run_threads(len(calls), lambda number: embed(calls[number]))
    for x, result in zip(calls, results, strict=True):
        assert_same(result, eager(model.embed, x))
    assert nn.parameter.is_lazy(model.second[1].weight)
    whole = torchpool.wrap(model, runtime=runtime, **options)
    for deep in (False, True):  # a kind of calls each
        assert_same(whole(calls[0], deep=deep), eager(model, calls[0], deep=deep))
    assert not nn.parameter.is_lazy(model.second[1].weight)


@pytest.mark.graphs
@pytest.mark.usefixtures("seeded")
def test_a_method_that_reaches_some_lazy_weights_is_captured_or_told_why() -> None:
    model = TwoHeads().eval()
    embed = torchpool.wrap(model.embed, example=draw(1, 8))
    assert embed.ready(HANG)
    assert_same(embed(draw(1, 8, seed=1)), eager(model.embed, draw(1, 8, seed=1)))
    assert embed.explain().contracts[0].mode, embed.explain()


class Meeting(nn.LazyLinear):
    """Its first two runs, if they come at the same time, are in it together."""

    together: threading.Barrier

    def initialize_parameters(self, *args: Any) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            self.together.wait(0.2)
        super().initialize_parameters(*args)


WAYS: dict[str, Callable[[nn.Module], tuple[Any, Any]]] = {
    "the module twice": lambda model: (model, model),
    "the module and a function": lambda model: (model, lambda x: model(x)),
    "functions": lambda model: (lambda x: model(x), lambda x: model(x)),
    "the module and its part": lambda model: (model, model[0]),
}


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("way", WAYS)
def test_lazy_weights_are_made_once_for_all_predictors(way: str, runtime: torchpool.Runtime) -> None:
    model = nn.Sequential(Meeting(4), nn.LazyBatchNorm1d()).eval()
    model[0].together = threading.Barrier(2)
    targets = WAYS[way](model)
    predictors = [torchpool.wrap(target, runtime=runtime) for target in targets]
    calls = draws(8, 1, 8)
    results = run_threads(len(calls), lambda number: predictors[number % 2](calls[number]))
    for number, (x, result) in enumerate(zip(calls, results, strict=True)):
        assert_same(result, eager(targets[number % 2], x))


# --- buffers that are no dense arrays ---------------------------------------------------------------------------------


class Buffered(nn.Module):
    def __init__(self, table: Callable[[], Tensor], use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.use = nn.Linear(8, 3), use
        self.register_buffer("table", table())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.use(self.table, x))


def _by_sparse(table: Tensor, x: Tensor) -> Tensor:
    return torch.sparse.mm(table, x.T).T


_EYE = torch.eye(8) + torch.eye(8).roll(1, 0)
BUFFERS: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "sparse": (lambda: _EYE.to_sparse(), _by_sparse),
    "sparse, not coalesced": (lambda: torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (8, 8)), _by_sparse),
    "compressed rows": (lambda: _EYE.to_sparse_csr(), lambda table, x: (table @ x.T).T),
    "compressed columns": (lambda: _EYE.to_sparse_csc(), lambda table, x: x @ table.to_dense()),
    "int8": (lambda: torch.quantize_per_tensor(_EYE, 0.1, 0, torch.qint8), lambda table, x: x @ table.dequantize()),
    "for oneDNN": (lambda: _EYE.to_mkldnn(), lambda table, x: x @ table.to_dense()),
}


@pytest.mark.parametrize("backend", ["auto", "python"])
@pytest.mark.parametrize("kind", BUFFERS)
def test_buffers_of_any_layout(kind: str, backend: Any, runtime: torchpool.Runtime) -> None:
    table, use = BUFFERS[kind]
    predict = torchpool.wrap(build(lambda: Buffered(table, use)), backend=backend, runtime=runtime)
    check(predict, runtime, [(x,) for x in draws(6, 1, 8)])


class Swaps(Buffered):
    """Binds its sparse buffer anew in each call."""

    def forward(self, x: Tensor) -> Tensor:
        self.table = (self.table * 1.5).coalesce()
        return super().forward(x)


def test_a_sparse_buffer_that_changes_is_state(runtime: torchpool.Runtime) -> None:
    model, oracle = (build(lambda: Swaps(*BUFFERS["sparse"])) for _ in range(2))
    predict = torchpool.wrap(model, runtime=runtime)
    for x in draws(4, 1, 8):
        assert_same(predict(x), eager(oracle, x))
    assert "model is stateful: buffer table changed" in str(predict.explain())


@pytest.mark.graphs
def test_a_sparse_buffer_and_the_reason_for_no_graph() -> None:
    predict = torchpool.wrap(build(lambda: Buffered(*BUFFERS["sparse"])), example=draw(1, 8))
    assert predict.ready(HANG)
    assert "sparse" in str(predict.explain())
