"""A module that sets hooks for one call and takes them away, as adapters that are named at the call do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import run_threads
from torch import nn

import torchpool

Tensor = torch.Tensor
FACTORS = {"a": 1.0, "b": 2.0, "c": 3.0}


class Named(nn.Module):
    """Multiplies by the factor of a name; lets other threads run while its hook is there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor, names: list[str]) -> Tensor:
        if len(names) != len(x):
            raise ValueError("as many names as rows are needed")
        hook = self.layer.register_forward_pre_hook(lambda module, args: (args[0] * FACTORS[names[0]],))
        try:
            time.sleep(0)
            return self.layer(x)
        finally:
            hook.remove()


CALLS: list[dict[str, Any]] = [{"x": torch.full((1, 4), float(i)), "names": ["abc"[i % 3]]} for i in range(90)]
WANTED = [call["x"] * FACTORS[call["names"][0]] for call in CALLS]

WAYS: dict[str, Callable[[torchpool.Predictor], list[Tensor]]] = {
    "starmap": lambda predict: list(predict.starmap(CALLS)),
    "submit": lambda predict: [future.result() for future in [predict.submit(**call) for call in CALLS]],
    "threads": lambda predict: run_threads(len(CALLS), lambda index: predict(**CALLS[index])),
}


@pytest.mark.parametrize("way", WAYS)
def test_runs_that_set_hooks_meet_no_other_run(way: str) -> None:
    """Not the learner's either: each call gets the factor of its own name, and explain() says why one waits."""
    predict = torchpool.wrap(Named().eval())
    assert torch.equal(predict(**CALLS[0]), WANTED[0])
    for got, want in zip(WAYS[way](predict), WANTED, strict=True):
        assert torch.equal(got, want)
    assert "sets hooks or submodules of its own" in str(predict.explain())
