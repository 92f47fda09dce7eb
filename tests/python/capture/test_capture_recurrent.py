"""Recurrent layers as graphs whose length is free."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from programs import Captured, assert_near, assert_proven, run_graph
from support import build, draw
from torch import Tensor, nn


def sequences(*lengths: int) -> list[Tensor]:
    return [draw(1, length, 4, seed=length) for length in lengths]


class Recurrent(nn.Module):
    """A recurrent layer and what its call takes and gives."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *state: Tensor) -> Any:
        if not state:
            return self.layer(x)
        return self.layer(x, state if len(state) > 1 else state[0])


LAYERS: list[tuple[type[nn.RNNBase], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    (nn.GRU, {"bidirectional": True, "bias": False}),
    (nn.RNN, {"num_layers": 2}),
    (nn.RNN, {"nonlinearity": "relu"}),
]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("layer", "options"), LAYERS)
def test_recurrent_layers_keep_their_length_free(
    layer: type[nn.RNNBase], options: dict[str, Any], batch_first: bool
) -> None:
    model = build(lambda: Recurrent(layer(4, 6, batch_first=batch_first, **options)))
    examples = sequences(6, 9) if batch_first else [draw(length, 1, 4, seed=length) for length in (6, 9)]
    captured = Captured(model, *examples)
    assert captured.graph.specialised == ()
    assert "length 1" in assert_proven(captured)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("projection", [0, 3])
def test_lstm_from_a_given_state(projection: int) -> None:
    model = build(lambda: Recurrent(nn.LSTM(4, 6, batch_first=True, proj_size=projection)))
    examples = [(draw(1, length, 4), draw(1, 1, projection or 6), draw(1, 1, 6)) for length in (6, 9)]
    captured = Captured(model, *examples)
    assert captured.graph.specialised == ()
    assert "length 1" in assert_proven(captured)


def test_bare_sequences_are_stacked_and_keep_their_length_free() -> None:
    model = build(lambda: nn.GRU(4, 6, batch_first=True))
    captured = Captured(model, draw(6, 4), draw(9, 4))
    assert captured.contract.inputs[0].stacked
    assert captured.graph.specialised == ()
    assert_near(run_graph(captured.graph, [draw(3, 5, 4)]), captured.eager([draw(3, 5, 4)]))


def test_weights_are_the_layers_own_parameters() -> None:
    model = build(lambda: nn.LSTM(4, 6, num_layers=2, bidirectional=True))
    weights = dict(Captured(model, draw(6, 1, 4), draw(9, 1, 4)).graph.weights)
    assert {name: id(weight) for name, weight in weights.items()} == {
        name: id(parameter) for name, parameter in model.named_parameters()
    }
    assert type(model) is nn.LSTM


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_bfloat16(layer: type[nn.RNNBase]) -> None:
    captured = Captured(build(lambda: Recurrent(layer(4, 6, batch_first=True))), *sequences(6, 9), dtype=torch.bfloat16)
    assert_proven(captured, bound=3e-2)
