"""explain(): what it says before and after there is something to say, and the programs of graphs."""

from __future__ import annotations

import pytest
import torch
from bad_models import Raiser
from support import build, draw
from torch import nn

import torchpool


class Net(nn.Module):
    """Large enough for its linear layers to be packed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 1024)
        self.last = nn.Linear(1024, 64)
        self.scale = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x))) * self.scale


def test_explain_before_any_call_says_that_nothing_is_known_yet() -> None:
    assert "nothing learned yet" in str(torchpool.wrap(build(Raiser)).explain())


def test_explain_reads_like_a_report() -> None:
    text = str(torchpool.wrap(build(Raiser), example=draw(1, 4), name="scorer").explain())
    assert text.startswith("batched: yes, because ")
    assert text.splitlines()[1].startswith("scorer: backend python, at most ")
    assert "calls with (x) share batches" in text
    assert "input  x: float32 (batch, 4), rows in dim 0" in text
    assert "output output: rows in dim 0" in text


@pytest.mark.graphs
def test_explain_shows_the_program() -> None:
    with torchpool.wrap(build(Net), example=draw(1, 64), backend="graph") as predict:
        assert "once per state of the weights" not in str(predict.explain())
        text = str(predict.explain(verbose=True))
    assert "once per state of the weights" in text
    assert "mkldnn::_linear_pointwise" in text


@pytest.mark.graphs
def test_explain_profiles_the_program() -> None:
    with torchpool.wrap(build(Net), example=draw(1, 64), backend="graph", max_batch=5) as predict:
        text = str(predict.explain(profile=True))
    assert "of sizes (5, 64)" in text
    timed = [line for line in text.splitlines() if " us  " in line]
    assert len(timed) == 3, "two linear layers, one fused with relu, and a product"
    assert [line.split("= ")[1].split("(")[0] for line in timed] == [
        "mkldnn::_linear_pointwise",
        "mkldnn::_linear_pointwise",
        "mul.Tensor",
    ]
    assert "by operator:" in text
