"""Packed copies of weights: one in the process for all kinds of calls and predictors on a module."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from support import HANG, HAS_BFLOAT16, assert_close, build, draw, eager
from torch import nn

import torchpool
from torchpool import _core

pytestmark = pytest.mark.graphs


class Encoder(nn.Module):
    """A transformer's calls: with and without kinds of tokens, each its own graph."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(100, 256), nn.Embedding(2, 256)
        self.layer = nn.TransformerEncoderLayer(256, 4, 512, batch_first=True, dropout=0.0)
        self.pooler = nn.Linear(256, 256)

    def forward(self, words: torch.Tensor, kinds: torch.Tensor | None = None) -> torch.Tensor:
        x = self.words(words)
        if kinds is not None:
            x = x + self.kinds(kinds)
        return torch.tanh(self.pooler(self.layer(x)[:, 0]))


def tokens(high: int) -> torch.Tensor:
    return torch.randint(high, (1, 7), generator=torch.Generator().manual_seed(high))


def wrap(model: nn.Module, *examples: Any, **options: Any) -> torchpool.Predictor:
    predict = torchpool.wrap(model, backend="graph", **options)
    for example in examples:
        predict(*example)
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",) * len(examples)
    return predict


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Any:
    gc.collect()
    before = _core.packed_weights()
    yield
    gc.collect()
    assert _core.packed_weights() == before


def test_two_kinds_of_calls_hold_one_packed_copy() -> None:
    model, before = build(Encoder), _core.packed_weights()
    calls = [(tokens(100),), (tokens(100), tokens(2))]
    with wrap(model, calls[0]) as alone:
        one = _core.packed_weights()
        assert one > before
        assert_close(alone(*calls[0]), eager(model, *calls[0]))
        with wrap(model, *calls) as both:
            assert _core.packed_weights() == one
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(0.5)
            for call in calls * 3:
                assert_close(both(*call), eager(model, *call))
                assert_close(alone(*calls[0]), eager(model, *calls[0]))
            assert _core.packed_weights() == one


@pytest.mark.skipif(not HAS_BFLOAT16, reason="bfloat16 weights are not packed on this processor")
def test_another_dtype_is_another_copy() -> None:
    model, x = build(lambda: nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256))), draw(1, 256)
    with wrap(model, (x,)):
        one = _core.packed_weights()
        with wrap(model, (x,), dtype=torch.bfloat16):
            assert _core.packed_weights()[1] > one[1]
        gc.collect()
        assert _core.packed_weights() == one
