"""Calls that are always served on their callers' threads get packed weights again after a change."""

from __future__ import annotations

import time

import pytest
import torch
from support import HANG, assert_close, build, draw
from torch import nn

import torchpool


@pytest.mark.graphs
def test_weights_are_packed_again_behind_inline_calls() -> None:
    """No batch comes by that would see to it."""
    model = build(lambda: nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3)))
    predict = torchpool.wrap(model)
    x = draw(1, 32)
    predict(x)
    assert predict.ready(HANG)
    graph = predict._core.graphs()[0]
    model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()})
    assert_close(predict(x), model(x).detach())
    ends = time.monotonic() + HANG
    while not graph.is_packed and time.monotonic() < ends:
        predict(x)
    assert graph.is_packed
    with torch.no_grad():
        assert_close(predict(x), model(x))
    assert predict.stats()["inline"] > 0
