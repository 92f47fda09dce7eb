"""The pass that puts our own kernel in the place of recurrent layers, and the kernel beside eager."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import Captured, Program, assert_near
from support import HANG, LSTMClassifier, assert_close, build, draw, eager
from torch import Tensor, nn

import torchpool
from torchpool.capture import passes
from torchpool.capture.lower import lower

KINDS = {nn.LSTM: "lstm", nn.GRU: "gru", nn.RNN: "rnn_tanh"}
own = pytest.mark.skipif(
    torch.ops.torchpool.isa() == "portable", reason="ATen's layers stay where there are no vectors for ours"
)


class Recurrent(nn.Module):
    """A recurrent layer, whose output and states are all given."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *state: Tensor) -> Any:
        return self.layer(x, (state if len(state) > 1 else state[0]) if state else None)


def _ops(captured: Captured) -> list[str]:
    """The operators of the program that runs with packed weights; it is as near to eager as the graph is."""
    lowered = lower(passes.optimise(captured.graph)[0])
    program = Program(lowered)
    for sample in captured.proof():
        assert_near(program([leaf.clone() for leaf in sample.leaves]), sample.expected, 2e-6)
    return [one.op for one in lowered.body]


@own
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
@pytest.mark.parametrize("layer", KINDS)
def test_recurrent_layers_run_on_our_kernel(
    layer: type[nn.RNNBase], options: dict[str, Any], batch_first: bool
) -> None:
    model = build(lambda: Recurrent(layer(4, 6, batch_first=batch_first, **options)))
    examples = [draw(1, n, 4) if batch_first else draw(n, 1, 4) for n in (6, 9)]
    assert _ops(Captured(model, *examples)) == ["torchpool::rnn"]


@own
@pytest.mark.parametrize("layer", KINDS)
def test_states_that_are_given_are_begun_with(layer: type[nn.RNNBase]) -> None:
    model = build(lambda: Recurrent(layer(4, 6, num_layers=2, batch_first=True)))
    states = [draw(2, 1, 6, seed=seed) for seed in range(2 if layer is nn.LSTM else 1)]
    assert _ops(Captured(model, (draw(1, 6, 4), *states), (draw(1, 9, 4), *states))) == ["torchpool::rnn"]


class Begins(nn.Module):
    """Its first states are zeros, to one of which it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h, c = torch.zeros(1, x.shape[0], 6), torch.zeros(1, x.shape[0], 6)
        c[..., 2] = 0.5
        return self.layer(x, (h, c))[0]


@own
def test_zeros_that_are_written_to_are_a_state() -> None:
    assert "torchpool::rnn" in _ops(Captured(build(Begins), draw(1, 6, 4), draw(1, 9, 4)))


@own
def test_outputs_that_nobody_reads_are_not_written() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(4, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[1][-1]

    captured = Captured(build(Last), draw(1, 6, 4), draw(1, 9, 4))
    graph, counts = passes.optimise(captured.graph)
    assert counts["pack_rnn"] == 1
    calls = [node for node in graph.module.graph.nodes if node.target is torch.ops.torchpool.rnn.default]
    assert [node.args[-1] for node in calls] == [False]
    assert _ops(captured)[0] == "torchpool::rnn"


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("layer", "options", "dtype", "op"),
    [
        (nn.LSTM, {"proj_size": 3}, None, "aten::lstm"),
        (nn.RNN, {"nonlinearity": "relu"}, None, "aten::rnn_relu"),
        (nn.LSTM, {"hidden_size": 513}, None, "aten::lstm"),
        (nn.GRU, {"hidden_size": 513}, None, "aten::gru"),
        (nn.GRU, {}, torch.float64, "aten::gru"),
    ],
)
def test_atens_layers_stay(layer: type[nn.RNNBase], options: dict[str, Any], dtype: Any, op: str) -> None:
    model = build(lambda: Recurrent(layer(4, batch_first=True, **{"hidden_size": 6, **options})))
    captured = Captured(model, draw(1, 6, 4), draw(1, 9, 4), dtype=dtype)
    graph, counts = passes.optimise(captured.graph)
    assert counts["pack_rnn"] == 0
    assert op in [one.op for one in lower(graph).body]


def test_dropout_between_layers_in_train_mode_stays_atens() -> None:
    captured = Captured(build(lambda: Recurrent(nn.LSTM(4, 6, num_layers=2, dropout=0.5))), draw(6, 1, 4))
    node = next(n for n in captured.graph.module.graph.nodes if n.target is torch.ops.aten.lstm.input)
    node.args = (*node.args[:6], True, *node.args[7:])
    assert passes.optimise(captured.graph)[1]["pack_rnn"] == 0


@own
@pytest.mark.graphs
def test_calls_of_a_predictor_run_on_it_and_follow_the_weights() -> None:
    model = build(LSTMClassifier)
    xs = [draw(1, 5 + seed % 4, 10, seed=seed) for seed in range(80)]
    with torchpool.wrap(model) as predict:
        for x in xs[:4]:
            predict(x)
        assert predict.ready(HANG)
        found = predict.explain(verbose=True)
        assert found.served_by == ("graph",)
        assert any("torchpool::rnn(" in program for program in found.programs)
        for _ in range(3):
            for x, y in zip(xs, predict.map(xs), strict=True):
                assert_close(y, eager(model, x))
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(-0.9)
        assert predict.stats()["fell_back"] == 0


# The operator itself, on whatever instruction set this run has.


def _packed(layer: nn.RNNBase) -> Tensor:
    weights = [getattr(layer, name) for name in layer._flat_weights_names]
    return torch.ops.torchpool.pack_rnn(weights, KINDS[type(layer)], layer.bias, layer.num_layers, layer.bidirectional)


def _run(layer: nn.RNNBase, x: Tensor, hx: Any = None, lengths: Tensor | None = None) -> list[Tensor]:
    states = hx if isinstance(hx, tuple) else (hx, None)
    found = torch.ops.torchpool.rnn(
        x, *states, _packed(layer), lengths, KINDS[type(layer)], layer.hidden_size, layer.num_layers,
        layer.bidirectional, layer.batch_first, True,
    )  # fmt: skip
    return list(found[: 3 if type(layer) is nn.LSTM else 2])


def _eager(layer: nn.RNNBase, x: Tensor, hx: Any = None) -> list[Tensor]:
    output, last = layer(x, hx)
    return [output, *(last if isinstance(last, tuple) else (last,))]


@st.composite
def layers_and_calls(draws: st.DrawFn) -> tuple[nn.RNNBase, Tensor, Any, Tensor]:
    kind = draws(st.sampled_from(list(KINDS)))
    size, units, depth = draws(st.integers(1, 19)), draws(st.integers(1, 41)), draws(st.integers(1, 3))
    both, first, bias = draws(st.booleans()), draws(st.booleans()), draws(st.booleans())
    rows, steps = draws(st.integers(1, 60)), draws(st.integers(1, 12))
    layer = build(lambda: kind(size, units, depth, bias=bias, batch_first=first, bidirectional=both))
    x = draw(rows, steps, size) * draws(st.sampled_from([0.1, 1.0, 30.0]))
    states = [draw(depth * (2 if both else 1), rows, units, seed=seed) for seed in range(2)]
    hx = None if draws(st.booleans()) else tuple(states) if kind is nn.LSTM else states[0]
    lengths = torch.randint(1, steps + 1, (rows,), generator=torch.Generator().manual_seed(rows))
    return layer, x if first else x.transpose(0, 1), hx, lengths


def _assert_close(got: list[Tensor], expected: list[Tensor], x: Tensor) -> None:
    """Within a few roundings of sums of inputs of that size."""
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=4e-6 * max(1.0, float(x.abs().max()) / 4))


@settings(max_examples=25, deadline=None)
@given(layers_and_calls())
def test_it_equals_eager(made: tuple[nn.RNNBase, Tensor, Any, Tensor]) -> None:
    layer, x, hx, _ = made
    with torch.no_grad():
        got, expected = _run(layer, x, hx), _eager(layer, x, hx)
    assert [one.stride() for one in got] == [one.stride() for one in expected]
    _assert_close(got, expected, x)


@settings(max_examples=25, deadline=None)
@given(layers_and_calls())
def test_rows_of_their_own_lengths_equal_packed_sequences(made: tuple[nn.RNNBase, Tensor, Any, Tensor]) -> None:
    layer, x, hx, lengths = made
    first = layer.batch_first
    with torch.no_grad():
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
        output, last = layer(packed, hx)
        steps = x.shape[1 if first else 0]
        whole = nn.utils.rnn.pad_packed_sequence(output, batch_first=first, total_length=steps)[0]
        got = _run(layer, x, hx, lengths)
    _assert_close(got, [whole, *(last if isinstance(last, tuple) else (last,))], x)


@settings(max_examples=25, deadline=None)
@given(layers_and_calls(), st.data())
def test_a_rows_bits_are_its_own(made: tuple[nn.RNNBase, Tensor, Any, Tensor], data: st.DataObject) -> None:
    layer, x, _, lengths = made
    dim = 0 if layer.batch_first else 1
    row = data.draw(st.integers(0, x.shape[dim] - 1))
    given_lengths = lengths if data.draw(st.booleans()) else None
    whole = _run(layer, x, None, given_lengths)
    alone = _run(layer, x.narrow(dim, row, 1), None, None if given_lengths is None else given_lengths[row : row + 1])
    for place, (one, other) in enumerate(zip(whole, alone, strict=True)):
        assert torch.equal(one.narrow(1 if place else dim, row, 1), other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("layer", KINDS)
def test_what_is_not_finite_ends_as_in_eager(layer: type[nn.RNNBase], value: float) -> None:
    net = build(lambda: layer(4, 9, 2, batch_first=True))
    for rows in (1, 7, 30):
        x = draw(rows, 6, 4)
        x[0, 2, 1] = value
        with torch.no_grad():
            for one, other in zip(_run(net, x), _eager(net, x), strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=4e-6, equal_nan=True)


def test_what_does_not_fit_is_told() -> None:
    net = build(lambda: nn.GRU(4, 6))
    x = draw(5, 2, 4)
    with pytest.raises(ValueError, match="expected 1 to 5 steps in each row"):
        _run(net, x, None, torch.tensor([3, 6]))
    with pytest.raises(ValueError, match="expected 1 to 5 steps in each row"):
        _run(net, x, None, torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="lengths: expected 2 of int64"):
        _run(net, x, None, torch.tensor([5]))
    with pytest.raises(ValueError, match="at least one step"):
        _run(net, draw(0, 2, 4))
    with pytest.raises(ValueError, match="packed for other sizes"):
        _run(net, draw(5, 2, 3))
    with pytest.raises(ValueError, match="state: expected"):
        _run(net, x, draw(1, 3, 6))
    with pytest.raises(TypeError, match="expected float32 on the CPU, got Double"):
        _run(net, x.double())
