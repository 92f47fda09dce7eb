"""A module with an operator in Python: proven by the operator's own rule, its calls are merged by the module itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support import HANG, assert_close, build, draw, draws, eager
from torch import nn

import torchpool
from torchpool.contract.rows import registry

pytestmark = pytest.mark.graphs


@torch.library.custom_op("torchpool_tests::turned", mutates_args=())
def turned(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return x @ by


@turned.register_fake
def _(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], by.shape[1])


class Turns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = turned(x, self.by)
        return result


@pytest.fixture
def _rule() -> Iterator[None]:
    @torchpool.rows.rule(turned)
    def keeps_rows(op: Any) -> Any:
        if not op.operand("by").is_const:
            torchpool.rows.mixes("what turns comes from rows")
        return op.operand("x").claim

    yield
    del registry._RULES["torchpool_tests::turned"]


def test_without_a_rule_calls_run_alone() -> None:
    model = build(Turns)
    with torchpool.wrap(model, example=draw(1, 4)) as predict:
        assert predict.ready(HANG)
        [contract] = predict.explain().contracts
        assert contract.mode == "alone"
        assert contract.rows is not None and contract.rows.kind == "unknown"
        assert "no rule for torchpool_tests.turned.default" in str(predict.explain())
        assert_close(predict(draw(2, 4)), eager(model, draw(2, 4)))


@pytest.mark.usefixtures("_rule")
def test_with_its_rule_the_module_serves_batches() -> None:
    model, xs = build(Turns), draws(40, 1, 4)
    with torchpool.wrap(model, example=draw(1, 4), max_batch=8) as predict:
        assert predict.ready(HANG)
        explanation = predict.explain()
        assert explanation.served_by == ("python",)
        assert explanation.contracts[0].rows is not None and explanation.contracts[0].rows.kind == "proven"
        for x, y in zip(xs, predict.map(xs), strict=True):
            assert_close(y, eager(model, x))
        assert predict.stats()["batch_rows"]["max"] > 1
