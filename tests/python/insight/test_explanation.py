"""explain(): what it says before and after there is something to say, and the programs of graphs."""

from __future__ import annotations

import pytest
import torch
from bad_models import Raiser
from support import build, draw
from torch import nn

import torchpool
from torchpool.capture import linear_choice


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


@pytest.fixture(params=["library", "torchpool"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of linear layers: otherwise the faster one, which another run may not find."""
    monkeypatch.setattr(linear_choice, "forced", request.param)
    return str(request.param)


@pytest.mark.graphs
def test_explain_shows_the_program(kernel: str) -> None:
    with torchpool.wrap(build(Net), example=draw(1, 64), backend="graph") as predict:
        assert "once per state of the weights" not in str(predict.explain())
        text = str(predict.explain(verbose=True))
    assert "once per state of the weights" in text
    assert ("mkldnn::_linear_pointwise" in text) == (kernel == "library")
    assert ("torchpool::linear" in text) == (kernel == "torchpool")


@pytest.mark.graphs
def test_explain_profiles_the_program(kernel: str) -> None:
    with torchpool.wrap(build(Net), example=draw(1, 64), backend="graph", max_batch=5) as predict:
        text = str(predict.explain(profile=True))
    assert "of sizes (5, 64)" in text
    timed = [line for line in text.splitlines() if " us  " in line]
    assert len(timed) == 3, "two linear layers, one fused with relu, and a product"
    linear = "mkldnn::_linear_pointwise" if kernel == "library" else "torchpool::linear"
    assert [line.split("= ")[1].split("(")[0] for line in timed] == [linear, linear, "mul.Tensor"]
    assert "by operator:" in text
