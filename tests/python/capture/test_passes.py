"""Each pass alone: the graph after it gives what the one before gave, does what the pass is for, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs import Captured, Program, assert_near, run_graph
from support import HAS_BFLOAT16, SimpleCNN, build, draw
from torch import Tensor, nn
from zoo import pretrained, texts

from torchpool.capture import linear_choice, passes
from torchpool.capture.export import Graph
from torchpool.capture.lower import lower
from torchpool.capture.passes import pack_linear

WIDE = 256  # of linear layers that are worth packing


def targets(graph: Graph) -> list[str]:
    return [str(node.target) for node in graph.module.graph.nodes if node.op == "call_function"]


def apply(captured: Captured, *names: str, bound: float = 1e-5) -> tuple[Graph, dict[str, int]]:
    """Runs passes in their order; the result is compared with the graph before, and with what it is lowered to."""
    others = set(passes.PASSES) - set(names)
    before = targets(captured.graph)
    graph, counts = passes.optimise(captured.graph, without=others)
    assert targets(captured.graph) == before, "the graph itself is kept"
    program = Program(lower(graph))
    for sample in captured.proof():
        expected = run_graph(captured.graph, sample.leaves)
        assert_near(run_graph(graph, sample.leaves), expected, bound)
        assert_near(program(sample.leaves), expected, bound)
    return graph, counts


class Model(nn.Module):
    """Layers by name, and the function of them and an input that is the forward."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def captured(forward: Callable[[Any, Tensor], Any], x: Tensor, **layers: Callable[[], nn.Module]) -> Captured:
    return Captured(build(lambda: Model(forward, **{name: make() for name, make in layers.items()})), x)


def linear(outputs: int = WIDE, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(WIDE, outputs, **options)


def image(channels: int = 3) -> Tensor:
    return draw(1, channels, 8, 8)


def test_dropout_goes_and_train_mode_dropout_stays() -> None:
    found = captured(lambda m, x: m.drop(m.linear(x)) + 1, draw(1, WIDE), linear=linear(), drop=lambda: nn.Dropout(0.5))
    graph, counts = apply(found, "drop_dropout")
    assert counts == {"drop_dropout": 1}
    assert "aten.dropout.default" not in targets(graph)
    node = next(node for node in found.graph.module.graph.nodes if node.target is torch.ops.aten.dropout.default)
    node.args = (*node.args[:2], True)
    assert passes.optimise(found.graph)[1]["drop_dropout"] == 0


def test_conversions_and_slices_of_everything_go() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = (x * 2).to(torch.float32)[:, :].type_as(x)
        return y[:, 1:] + y.to(torch.float64)[:, :1].to(torch.float32) + y.to(torch.float32, copy=True)[:, :3]

    graph, _ = apply(captured(forward, draw(1, 4)), "drop_no_ops")
    left = targets(graph)
    assert left.count("aten.slice.Tensor") == 3
    assert len([name for name in left if name.startswith("aten.to.")]) == 3


def test_writing_in_place_goes_where_nobody_sees_it() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = (x + 1).relu_()  # alone
        y += x  # alone
        z = x * 3
        view = z[:, :2]
        view.mul_(2)  # seen through z
        return y + z

    graph, counts = apply(captured(forward, draw(1, 4)), "drop_in_place")
    assert counts["drop_in_place"] == 2
    assert [name for name in targets(graph) if "_." in name] == ["aten.mul_.Tensor"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_batch_norm_folds_into_convolutions(dimensions: int, bias: bool) -> None:
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]

    def trained_norm() -> nn.Module:
        layer = norm(4)
        nn.init.uniform_(layer.weight), nn.init.normal_(layer.bias)
        nn.init.normal_(layer.running_mean), nn.init.uniform_(layer.running_var, 0.5, 2)
        return layer

    found = captured(
        lambda m, x: m.norm(m.conv(x)),
        draw(1, 3, *[6] * dimensions),
        conv=lambda: convolution(3, 4, 3, bias=bias),
        norm=trained_norm,
    )
    graph, counts = apply(found, "fold_batch_norm")
    assert counts["fold_batch_norm"] == 1
    lowered = lower(graph)
    assert [one.op for one in lowered.body] == [f"aten::conv{dimensions}d"]
    found.model.norm.running_var.mul_(4)  # the weights are live: computed anew, they follow
    x = draw(2, 3, *[6] * dimensions)
    assert_near(Program(lower(graph))([x]), found.eager([x]))


def test_batch_norm_stays_where_the_convolution_is_used_twice() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        return m.norm(y) + y

    found = captured(forward, image(), conv=lambda: nn.Conv2d(3, 4, 3), norm=lambda: nn.BatchNorm2d(4))
    assert apply(found, "fold_batch_norm")[1]["fold_batch_norm"] == 0


def test_batch_norm_folds_in_the_weights_own_type() -> None:
    model = build(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model[1].running_var.fill_(0.3)
    found = Captured(model, image(), dtype=torch.bfloat16)
    graph, counts = apply(found, "fold_batch_norm", bound=3e-2)
    assert counts["fold_batch_norm"] == 1
    assert lower(graph).prologue[-1].args[-1] is torch.bfloat16


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_linear_is_packed(bias: bool, dtype: torch.dtype | None) -> None:
    found = Captured(build(linear(96, bias=bias)), draw(1, 5, WIDE), dtype=dtype)
    if dtype is not None and not HAS_BFLOAT16:
        pytest.skip("bfloat16 weights are not packed on this processor")
    if dtype is None:
        assert apply(found, "pack_linear")[1]["pack_linear"] == 0, "too small to be worth it"
    found = Captured(build(linear(bias=bias)), draw(1, 5, WIDE), dtype=dtype)
    graph, counts = apply(found, "pack_linear", bound=1e-5 if dtype is None else 2e-2)
    assert counts["pack_linear"] == 1
    lowered = lower(graph)
    assert lowered.prologue[-1].op == "mkldnn::_reorder_linear_weight"
    assert dict(graph.weights)["weight"] is found.model.weight


class Products(nn.Module):
    """x @ w in all its forms: addmm, mm and matmul."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDE, WIDE + 1))
        self.bias = nn.Parameter(torch.randn(WIDE + 1))

    def forward(self, x: Tensor) -> Any:
        return torch.addmm(self.bias, x, self.weight), x.mm(self.weight), x[None] @ self.weight

    def scaled(self, x: Tensor) -> Any:
        return torch.addmm(self.bias, x, self.weight, alpha=2.0), x @ x.T


def test_products_with_a_weight_are_packed() -> None:
    model = build(Products)
    graph, counts = apply(Captured(model, draw(1, WIDE)), "pack_linear")
    assert counts["pack_linear"] == 3
    assert "aten.mm.default" not in targets(graph)


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.ReLU, "relu"), (nn.SiLU, "swish"), (nn.Tanh, "tanh"), (nn.Sigmoid, "sigmoid"),
        (nn.GELU, "gelu"), (lambda: nn.GELU("tanh"), "gelu"), (lambda: nn.ReLU(inplace=True), "relu"),
    ],
)  # fmt: skip
def test_activation_is_fused(activation: Callable[[], nn.Module], name: str) -> None:
    for layer, x in ((linear(), draw(1, 5, WIDE)), (lambda: nn.Conv2d(3, 4, 3), image())):
        found = captured(lambda m, x: m.activation(m.layer(x)), x, layer=layer, activation=activation)
        graph, counts = apply(found, "drop_in_place", "pack_linear", "pack_convolution", "fuse_unary")
        assert counts["fuse_unary"] == 1
        assert name in lower(graph).body[-1].args


def test_activation_of_a_result_that_is_used_twice_is_not_fused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.linear(x)
        return y.relu() * y

    _, counts = apply(captured(forward, draw(1, WIDE), linear=linear()), "pack_linear", "fuse_unary")
    assert counts == {"pack_linear": 1, "fuse_unary": 0}


def test_layers_over_one_input_are_merged() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        query, key, value = (m.get_submodule(name)(x).view(*x.shape[:2], 4, -1) for name in "qkv")
        return query.transpose(1, 2) @ key.transpose(1, 2).mT, value.transpose(1, 2).flatten(2), m.other(x + 1)

    layers = {"q": linear(), "k": linear(), "v": linear(128), "other": linear()}
    graph, counts = apply(captured(forward, draw(1, 5, WIDE), **layers), "merge_qkv", "pack_linear")
    assert counts == {"merge_qkv": 1, "pack_linear": 2}
    assert targets(graph).count("mkldnn._linear_pointwise.default") == 2


def test_layers_are_not_merged_where_their_memory_matters() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        y.view(-1).mul_(2)
        return y + m.b(x)

    found = captured(forward, draw(1, WIDE), a=linear(), b=linear())
    assert apply(found, "merge_qkv")[1]["merge_qkv"] == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"padding": "same"}, {"padding": "valid"}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 3}],
)
def test_convolution_is_packed(options: dict[str, Any]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        return y.view(y.shape[0], -1)  # of a channels-last result: a copy

    found = captured(forward, image(), conv=lambda: nn.Conv2d(3, 6, 3, **options))
    graph, counts = apply(found, "pack_convolution")
    assert counts["pack_convolution"] == 1
    assert "aten.conv2d.default" not in targets(graph)


@pytest.mark.parametrize("own", [True, False])
def test_all_passes_together(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_choice, "forced", "torchpool" if own else "library")
    bert = pretrained(
        "BertModel", vocab_size=50, hidden_size=WIDE, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512
    )
    found = Captured(build(bert), *texts((6, 9)), pad={"input_ids": 0, "attention_mask": 0})
    _, counts = apply(found, *passes.PASSES)
    assert counts["merge_qkv"] == 2
    assert (counts["own_linear"], counts["pack_linear"]) == ((9, 0) if own else (0, 9))
    assert counts["fuse_linear"] == 2 * 5 * own, "gelu, and two residuals with their norms, in each layer"
    _, counts = apply(Captured(build(SimpleCNN), draw(1, 1, 28, 28)), *passes.PASSES)
    assert (counts["pack_convolution"], counts["fuse_unary"], counts["fuse_linear"]) == (2, 3 - own, own)


def test_a_pass_that_does_not_exist_cannot_be_left_out() -> None:
    found = Captured(build(linear()), draw(1, WIDE))
    with pytest.raises(ValueError, match="no such passes"):
        passes.optimise(found.graph, without=["pack_linears"])
    assert "pack_linear" in passes.PASSES and pack_linear.run is passes.PASSES["pack_linear"]
