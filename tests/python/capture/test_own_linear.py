"""Linear layers by torchpool's own kernel: which nodes become one, what is fused into it, who chooses, and what it is
served with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import Captured, optimised
from support import HANG, HAS_BFLOAT16, assert_close, build, draw, draws, eager, run_threads
from torch import Tensor, nn

import torchpool
from torchpool import _core
from torchpool.capture import linear_choice, passes
from torchpool.capture.export import Graph
from torchpool.capture.linear_choice import ATEN, ONEDNN, OWN, LinearChoice
from torchpool.capture.lower import lower

WIDTH = 48


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_choice, "forced", OWN)


class Model(nn.Module):
    """Layers by name, and the function of them and an input that is the forward."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.function = forward
        self.weight = nn.Parameter(torch.randn(WIDTH, 33))
        self.bias = nn.Parameter(torch.randn(33))
        for name, make in {"first": linear(), "second": linear(), **layers}.items():
            setattr(self, name, make())

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def linear(outputs: int = WIDTH, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(WIDTH, outputs, **options)


def apply(
    forward: Callable[[Any, Tensor], Any], x: Tensor | None = None, **layers: Callable[[], nn.Module]
) -> tuple[list[Any], dict[str, int]]:
    """The instructions of a batch after all passes, and what these did; compared with the graph before."""
    found = Captured(build(lambda: Model(forward, **layers)), draw(1, 5, WIDTH) if x is None else x)
    _, graph, counts = optimised(found)
    return lower(graph).body, counts


def ops(body: list[Any]) -> list[str]:
    return [one.op for one in body]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [16, 33, WIDTH])
def test_a_linear_layer_is_packed(outputs: int, bias: bool) -> None:
    body, counts = apply(lambda m, x: m.layer(x), layer=linear(outputs, bias=bias))
    assert ops(body) == ["torchpool::linear"]
    assert (counts["own_linear"], counts["pack_linear"]) == (1, 0)


def test_products_with_a_weight_are_packed_and_others_are_not() -> None:
    def products(m: Any, x: Tensor) -> Any:
        return torch.addmm(m.bias, x, m.weight), x.mm(m.weight), x[None] @ m.weight

    assert apply(products, draw(1, WIDTH))[1]["own_linear"] == 3

    def others(m: Any, x: Tensor) -> Any:
        return torch.addmm(m.bias, x, m.weight, alpha=2.0), x @ x.mT, x @ m.weight.sum(1), x * m.weight[:, 0]

    assert apply(others, draw(1, WIDTH))[1]["own_linear"] == 0


def test_one_layer_may_follow_another() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.addmm(m.bias, m.second(m.first(x)), m.weight)
        return m.last(y.mm(m.weight.t()) @ m.weight)

    body, counts = apply(forward, draw(1, WIDTH), last=lambda: nn.Linear(33, 20))
    assert (ops(body), counts["own_linear"]) == (["torchpool::linear"] * 6, 6)


def test_few_outputs_are_left_to_the_library() -> None:
    body, counts = apply(lambda m, x: m.layer(x), layer=linear(15))
    assert (ops(body), counts["own_linear"]) == (["aten::linear"], 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_left_to_the_library(dtype: torch.dtype) -> None:
    if dtype is torch.bfloat16 and not HAS_BFLOAT16:
        pytest.skip("bfloat16 weights are not packed on this processor")
    found = Captured(build(linear()).to(dtype), draw(1, WIDTH).to(dtype))
    assert passes.optimise(found.graph)[1]["own_linear"] == 0


def test_layers_over_one_input_are_one() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.q(x), m.k(x), m.v(x)

    wide = {name: (lambda: nn.Linear(256, 128)) for name in "qkv"}
    body, counts = apply(forward, draw(1, 5, 256), **wide)
    assert (counts["merge_qkv"], counts["own_linear"]) == (1, 1)
    assert ops(body) == ["torchpool::linear", "aten::split_with_sizes"]


@pytest.mark.parametrize(
    ("activation", "name"),
    [(nn.ReLU, "relu"), (nn.SiLU, "silu"), (nn.GELU, "gelu"), (lambda: nn.GELU("tanh"), "gelu_tanh"),
     (lambda: nn.ReLU(inplace=True), "relu")],
)  # fmt: skip
def test_activations_are_fused(activation: Callable[[], nn.Module], name: str) -> None:
    body, counts = apply(lambda m, x: m.activation(m.first(x)), activation=activation)
    assert (ops(body), counts["fuse_linear"]) == (["torchpool::linear"], 1)
    assert body[0].kwargs == {"activation": name}


def test_other_activations_follow() -> None:
    for activation in (nn.Tanh, nn.Sigmoid, nn.ELU):
        body, _ = apply(lambda m, x: m.activation(m.first(x)), activation=activation)
        assert len(body) == 2


@pytest.mark.parametrize(
    ("norm", "kwargs"),
    [
        (lambda: nn.LayerNorm(WIDTH, eps=1e-3), {"norm": "layer", "eps": 1e-3}),
        (lambda: nn.LayerNorm(WIDTH, elementwise_affine=False), {"norm": "layer", "gain": None, "shift": None}),
        (lambda: nn.LayerNorm(WIDTH, bias=False), {"norm": "layer", "shift": None}),
        (lambda: nn.RMSNorm(WIDTH, eps=1e-3), {"norm": "rms", "eps": 1e-3, "shift": None}),
        (lambda: nn.RMSNorm(WIDTH), {"norm": "rms", "eps": torch.finfo(torch.float32).eps}),
    ],
)
@pytest.mark.parametrize("residual", [True, False])
def test_residuals_and_norms_are_fused(norm: Callable[[], nn.Module], kwargs: dict[str, Any], residual: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.relu(m.first(x))
        return m.norm(x + y if residual else y)

    body, counts = apply(forward, norm=norm)
    assert (ops(body), counts["fuse_linear"]) == (["torchpool::linear"], 2 + residual)
    assert body[0].kwargs["activation"] == "relu" and ("residual" in body[0].kwargs) == residual
    assert {name: body[0].kwargs[name] for name in kwargs} == kwargs


def test_a_residual_that_comes_later_is_fused_where_it_is_known() -> None:
    body, _ = apply(lambda m, x: m.first(x) + torch.tanh(m.second(x * 2)))
    assert ops(body) == ["aten::mul", "torchpool::linear", "aten::tanh", "torchpool::linear"]


def _written_residual(m: Any, x: Tensor) -> Tensor:
    other = x * 3
    view = other[:, 1:]
    y = m.first(x)
    view.mul_(2)
    return other + y


def _written_input(m: Any, x: Tensor) -> Tensor:
    other = x * 3
    view = other[:, 1:]
    y = m.first(other)
    view.mul_(2)
    return torch.relu(y) + other


def _used_twice(m: Any, x: Tensor) -> Tensor:
    y = m.first(x)
    return y.relu() * y + torch.tanh(y)


@pytest.mark.parametrize(
    "forward",
    [
        _written_residual,
        _written_input,
        _used_twice,
        lambda m, x: m.first(x) + x[:, :1],  # broadcast
        lambda m, x: m.first(x)[:, :1] + x,
        lambda m, x: torch.add(x, m.first(x), alpha=2),
        lambda m, x: m.first(x) + 1,
        lambda m, x: (y := m.first(x)) + y,
        lambda m, x: m.first(x) + x.double(),
        lambda m, x: nn.functional.layer_norm(m.first(x), (5, WIDTH)),
        lambda m, x: nn.functional.layer_norm(m.first(x), (WIDTH,), x[0, 0]),
        lambda m, x: nn.functional.layer_norm(x, (WIDTH,), bias=None) + torch.tanh(m.first(x)),
    ],
)
def test_what_is_not_the_epilogue_of_a_row_stays(forward: Callable[[Any, Tensor], Any]) -> None:
    _, counts = apply(forward)
    assert (counts["own_linear"], counts["fuse_linear"]) == (1, 0)


def test_the_order_is_activation_residual_norm() -> None:
    def norm_first(m: Any, x: Tensor) -> Tensor:
        return torch.relu(m.norm(m.first(x)) + x)

    body, counts = apply(norm_first, norm=lambda: nn.LayerNorm(WIDTH))
    assert (ops(body), counts["fuse_linear"]) == (["torchpool::linear", "aten::add", "aten::relu"], 1)
    body, counts = apply(lambda m, x: torch.relu(m.first(x) + x))
    assert (ops(body), counts["fuse_linear"]) == (["torchpool::linear", "aten::relu"], 1)


# Who chooses.


def test_a_kernel_that_is_slower_at_any_number_of_rows_is_not_chosen() -> None:
    shape = (256, 256)

    def decided(*ratios: float) -> LinearChoice:
        best = {(shape, rows, True): ratio for rows, ratio in zip((1, 4, 16, 48), ratios, strict=True)}
        best |= {(shape, rows, False): 1.0 for rows in (1, 4, 16, 48)}
        return linear_choice._decided(shape, best)

    assert decided(0.5, 0.5, 0.9, 1.0).kernel == OWN
    assert decided(0.5, 0.5, 0.9, 1.2).kernel == ONEDNN
    assert decided(1.02, 1.02, 1.02, 1.02).kernel == ONEDNN
    assert decided(0.5, 0.5, 0.9, 1.0).times == ((1, 0.5), (4, 0.5), (16, 0.9), (48, 1.0))


def test_shapes_are_measured_once_and_within_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_choice, "forced", None)
    monkeypatch.setattr(linear_choice, "_known", {})
    clock = iter(range(10**6))
    monkeypatch.setattr(linear_choice.time, "thread_time", lambda: next(clock) * 1e-3)
    found = linear_choice.choose({(256, 256): 2, (33, 64): 1, (8, 64): 3})
    assert next(clock) < 250, (
        "80 ms of a clock that each look turns by one, and what one pass of a kernel may take more"
    )
    assert found[8, 64] == LinearChoice(8, 64, ATEN), "too few outputs: nothing is measured"
    assert found[256, 256].times and found[33, 64].times
    monkeypatch.setattr(linear_choice, "_measured", None)
    assert linear_choice.choose({(256, 256): 1}) == {(256, 256): found[256, 256]}


def test_what_a_child_has_measured_its_parent_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_choice, "forced", None)
    monkeypatch.setattr(linear_choice, "_known", {})
    choice = LinearChoice(64, 64, ATEN, ((1, 2.0),))
    linear_choice.learn([choice])
    assert linear_choice.choose({(64, 64): 5}) == {(64, 64): choice}


def test_a_kernel_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_choice, "forced", "mkl")
    with pytest.raises(ValueError, match="TORCHPOOL_LINEAR is 'mkl': expected 'torchpool' or 'library'"):
        linear_choice.choose({(64, 64): 1})


def test_it_is_told_which_kernels_compute() -> None:
    assert linear_choice.describe({}) is None
    isa = _core.linear_isa()
    own, other = LinearChoice(64, 64, OWN, ((1, 0.5), (4, 0.4))), LinearChoice(512, 512, ONEDNN, ((1, 2.0),))
    assert linear_choice.describe({own: 3, other: 2}) == (
        f"linear layers: 2 by oneDNN, 3 by torchpool ({isa}); measured, of the library's time: 1.00 at 1 row"
    )
    assert linear_choice.describe({LinearChoice(8, 8, ATEN): 1}) == "linear layers: 1 by ATen"


# What it is served with.


class Block(nn.Module):
    """A transformer's feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(256, 512), nn.Linear(512, 256), nn.LayerNorm(256)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(nn.functional.gelu(self.up(x))))


@pytest.fixture
def serve() -> Iterator[Callable[..., torchpool.Predictor]]:
    opened: list[torchpool.Predictor] = []

    def wrap(model: nn.Module, **options: Any) -> torchpool.Predictor:
        predict = torchpool.wrap(model, backend="graph", example=draw(1, 256), **options)
        opened.append(predict)
        assert predict.ready(HANG)
        assert "torchpool::linear" in str(predict.explain(verbose=True))
        return predict

    yield wrap
    for predict in opened:
        predict.close()


@pytest.mark.graphs
def test_the_choice_is_told(serve: Callable[..., torchpool.Predictor]) -> None:
    explained = serve(build(Block)).explain()
    text = f"linear layers: 2 by torchpool ({_core.linear_isa()})"
    assert text in str(explained) and any(text in note for note in explained.to_dict()["notes"])


@pytest.mark.graphs
def test_the_choice_is_saved(serve: Callable[..., torchpool.Predictor], tmp_path: Path) -> None:
    model = build(Block)
    predict = serve(model)
    predict.save(tmp_path / "block")
    with torchpool.load(tmp_path / "block", model) as loaded:
        assert_close(loaded(draw(3, 256)), eager(model, draw(3, 256)))
        assert loaded.ready(HANG)
        assert "torchpool::linear" in str(loaded.explain(verbose=True))
        assert set(predict.explain().notes) <= set(loaded.explain().notes)
        assert torch.equal(loaded(draw(3, 256)), predict(draw(3, 256)))


def test_what_was_chosen_elsewhere_is_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = linear_choice.kernels_of_linear()
    assert _core.linear_isa() in before and OWN in before
    monkeypatch.setattr(linear_choice, "forced", None)
    assert linear_choice.kernels_of_linear() != before


@pytest.mark.graphs
def test_a_rows_bits_do_not_depend_on_its_batch(serve: Callable[..., torchpool.Predictor]) -> None:
    model = build(Block)
    predict = serve(model)
    rows = draws(64, 1, 256)
    alone = [predict(row) for row in rows]
    for row, result in zip(rows, alone, strict=True):
        assert_close(result, eager(model, row))
    for count in (2, 3, 13, 64):
        together = predict(torch.cat(rows[:count]))
        assert torch.equal(together, torch.cat(alone[:count]))
    assert all(torch.equal(one, other) for one, other in zip(predict.map(rows), alone, strict=True))


def _loaded(model: nn.Module) -> None:
    model.load_state_dict({name: value * 0.5 for name, value in model.state_dict().items()})


def _trained(model: nn.Module) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(draw(3, 256)).square().sum().backward()
    optimiser.step()


def _replaced(model: Any) -> None:
    model.up.weight.data = model.up.weight.data.flip(0) * 0.5


@pytest.mark.graphs
@pytest.mark.parametrize("change", [_loaded, _trained, _replaced])
def test_changed_weights_are_served_anew(
    change: Callable[[nn.Module], None], serve: Callable[..., torchpool.Predictor]
) -> None:
    model = build(Block)
    predict = serve(model)
    x = draw(3, 256, seed=2)
    before = predict(x)
    for _ in range(3):
        change(model)
        for _ in range(4):  # unpacked at first, then packed anew
            assert_close(predict(x), eager(model, x))
    assert not torch.equal(predict(x), before)


@pytest.mark.graphs
def test_threads_and_predictors_read_one_copy(serve: Callable[..., torchpool.Predictor]) -> None:
    model, x = build(Block), draws(8, 1, 256)
    first = serve(model)
    held = _core.packed_weights()
    second = serve(model)
    assert _core.packed_weights() <= held, "another predictor packs nothing"
    start = threading.Barrier(8)

    def work(number: int) -> list[Tensor]:
        start.wait(HANG)
        return [(first, second)[number % 2](one) for one in x * 5]

    results = run_threads(8, work)
    assert all(torch.equal(one, other) for result in results[1:] for one, other in zip(results[0], result, strict=True))
    assert _core.packed_weights() <= held


def test_the_graph_itself_is_kept() -> None:
    found = Captured(build(Block), draw(1, 256))
    graph: Graph = passes.optimise(found.graph)[0]
    assert "torchpool" in str(graph.module.graph) and "torchpool" not in str(found.graph.module.graph)
