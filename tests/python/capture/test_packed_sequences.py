"""Layers over packed sequences: captured, proven, and served with rows of many lengths in a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs import Captured, Program, assert_near, run_graph
from support import HANG, assert_close, build, draw, eager
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import torchpool
from torchpool.capture import packed_sequences, passes
from torchpool.capture.lower import lower
from torchpool.capture.program import CaptureError

LAYERS: list[tuple[type[nn.RNNBase], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    (nn.GRU, {"bidirectional": True, "bias": False}),
    (nn.RNN, {"num_layers": 2}),
]


class Packs(nn.Module):
    """A layer over a packed sequence, and what is made of its result."""

    def __init__(
        self,
        layer: nn.RNNBase,
        after: Callable[[PackedSequence, Any], Any],
        *,
        batch_first: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.layer, self.after = layer, after
        self.options = {"batch_first": batch_first, "enforce_sorted": False, **options}

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.after(*self.layer(pack_padded_sequence(x, lengths, **self.options)))


def last(output: PackedSequence, states: Any) -> Tensor:
    """The last layer's last state."""
    return (states[0] if isinstance(states, tuple) else states)[-1]


def padded(steps: int, **options: Any) -> Callable[[PackedSequence, Any], Any]:
    def after(output: PackedSequence, states: Any) -> tuple[Tensor, ...]:
        return (*pad_packed_sequence(output, total_length=steps, **options), last(output, states))

    return after


def call(length: int, *, rows: int = 1, steps: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    lengths = [1 + (length - 1 + 4 * row) % steps for row in range(rows)]
    return draw(rows, steps, 4, seed=seed), torch.tensor(lengths)


@pytest.mark.parametrize(("layer", "options"), LAYERS)
def test_layers_over_packed_sequences_are_captured(layer: type[nn.RNNBase], options: dict[str, Any]) -> None:
    model = build(lambda: Packs(layer(4, 6, batch_first=True, **options), padded(9, batch_first=True)))
    captured = Captured(model, call(5), call(9), call(2))
    assert captured.graph.rows.verdict.kind == "proven"
    folded, plain = Program(lower(passes.optimise(captured.graph)[0])), Program(lower(captured.graph, fold=False))
    assert [one.op for one in folded.lowered.prologue] == ["torchpool::pack_rnn"]
    assert not plain.lowered.prologue
    for rows in (1, 2, 7, 30):
        leaves = list(call(5, rows=rows, seed=rows))
        for run in (lambda given: run_graph(captured.graph, given), folded, plain):
            assert_near(run(leaves), captured.eager(leaves), 2e-6)


def test_a_sequence_knows_which_dim_its_rows_are_in() -> None:
    """Whatever the layer says of batches."""

    def after(output: PackedSequence, states: Any) -> tuple[Tensor, ...]:
        return (pad_packed_sequence(output, batch_first=False, total_length=9)[0], last(output, states))

    model = build(lambda: Packs(nn.GRU(4, 6), after))
    captured = Captured(model, call(5), call(9), call(2))
    leaves = list(call(5, rows=7))
    assert_near(run_graph(captured.graph, leaves), captured.eager(leaves), 2e-6)


class FromState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 6)

    def forward(self, x: Tensor, lengths: Tensor, h: Tensor, c: Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.layer(packed, (h, c))[1]


def test_states_belong_to_rows_as_they_were_given() -> None:
    model = build(FromState)
    states = [draw(1, 1, 6, seed=seed) for seed in range(2)]
    captured = Captured(model, *[(*call(length), *states) for length in (5, 9, 2)])
    leaves = [*call(5, rows=7), draw(1, 7, 6), draw(1, 7, 6, seed=1)]
    assert_near(run_graph(captured.graph, leaves), captured.eager(leaves), 2e-6)


@pytest.mark.parametrize("value", [0.0, -1.5])
def test_what_was_packed_is_padded_anew(value: float) -> None:
    class Round(nn.Module):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(packed, batch_first=True, padding_value=value, total_length=9)[0] * 1.0

    captured = Captured(build(Round), call(5), call(9), call(2))
    leaves = list(call(5, rows=7))
    assert_near(run_graph(captured.graph, leaves), captured.eager(leaves))


def _refused(model: nn.Module, *calls: Any) -> str:
    with pytest.raises(CaptureError) as refused:
        Captured(model, *calls or [(*call(9),), (*call(9),)])
    return str(refused.value)


def test_what_is_not_followed_is_told() -> None:
    def packs(after: Any, layer: Callable[[], nn.RNNBase] = lambda: nn.LSTM(4, 6)) -> nn.Module:
        return build(lambda: Packs(layer(), after))

    def whole(output: PackedSequence, states: Any) -> Tensor:
        return pad_packed_sequence(output, batch_first=True)[0]

    assert "give it total_length" in _refused(packs(whole))
    assert "give it total_length" in _refused(packs(padded(12, batch_first=True)))
    more = "for more than recurrent layers and pad_packed_sequence"
    assert more in _refused(packs(lambda output, states: output.data.reshape(-1, 9, 6)))
    assert "nn.RNN with relu is called with a packed sequence" in _refused(
        packs(last, lambda: nn.RNN(4, 6, nonlinearity="relu"))
    )

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, [9] * len(x), batch_first=True)
            return self.layer(packed)[1][0][-1]

    assert "are no tensor" in _refused(build(Listed), draw(1, 9, 4))


def test_torchs_functions_are_as_before_after_an_export() -> None:
    before = pack_padded_sequence.__code__, pad_packed_sequence.__code__
    with pytest.raises(KeyError), packed_sequences.kept_padded():
        assert isinstance(pack_padded_sequence(*call(5), batch_first=True), packed_sequences.Sequence)
        raise KeyError
    assert (pack_padded_sequence.__code__, pad_packed_sequence.__code__) == before
    assert type(pack_padded_sequence(*call(5), batch_first=True)) is PackedSequence


@pytest.mark.graphs
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_calls_of_many_lengths_merge(layer: type[nn.RNNBase]) -> None:
    model = build(lambda: Packs(layer(4, 6, num_layers=2, bidirectional=True), last))
    calls = [call(1 + seed * 5 % 9, rows=1 + seed % 3, seed=seed) for seed in range(60)]
    with (
        contextlib.closing(torchpool.Runtime(1)) as runtime,
        torchpool.wrap(model, runtime=runtime, verify=0) as predict,
    ):
        for one in calls[:3]:
            predict(*one)
        assert predict.ready(HANG)
        assert predict.explain().served_by == ("graph",)
        futures = [predict.submit(*one) for one in calls]
        for one, future in zip(calls, futures, strict=True):
            assert_close(future.result(HANG), eager(model, *one))
        assert predict.stats()["fell_back"] == 0
