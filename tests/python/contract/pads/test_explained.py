"""What `explain()` says of padding: proven on the graph, proven for some calls, or by numbers and why."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from support import HANG, build, eager
from torch import Tensor, nn

import torchpool
from torchpool.contract import Contract
from torchpool.contract.contract import PaddingVerdict

pytestmark = pytest.mark.graphs


class Pooled(nn.Module):
    """The mean of the words that are not masked."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.linear = nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.states(self.words(ids), mask) * mask.unsqueeze(-1)
        return self.linear(states.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))

    def states(self, x: Tensor, mask: Tensor) -> Tensor:
        return x


class Attending(Pooled):
    """After attention with a mask of a finite number."""

    def states(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = (x @ x.transpose(1, 2)).masked_fill((mask == 0).unsqueeze(1), -1e9)
        return scores.softmax(-1) @ x


class Counting(Pooled):
    """Padded places count, by so little that numbers do not show it."""

    def states(self, x: Tensor, mask: Tensor) -> Tensor:
        return x + 1e-12 * x.mean(1, keepdim=True)


def calls(*lengths: int) -> list[dict[str, Tensor]]:
    drawn = torch.Generator().manual_seed(3)
    return [
        {"ids": torch.randint(1, 50, (1, length), generator=drawn), "mask": torch.ones(1, length)} for length in lengths
    ]


def explained(model: type[nn.Module]) -> Contract:
    """The contract of a model that is wrapped, of which calls of several lengths get their own results."""
    given = calls(6, 9, 4, 12)
    made = build(model)
    expected = [eager(made, **call) for call in given]
    with torchpool.wrap(made, example=given[:2], pad={"ids": 0, "mask": 0}) as predict:
        assert predict.ready(HANG)
        for result, want in zip(predict.starmap(given * 4), expected * 4, strict=True):
            torch.testing.assert_close(result, want)
        explanation = predict.explain()
    [contract] = explanation.contracts
    [verdict] = contract.padding
    assert f"\n  {verdict.text}\n" in str(explanation)
    return contract


def said(model: type[nn.Module]) -> PaddingVerdict:
    return explained(model).padding[0]


def test_padding_is_proven() -> None:
    contract = explained(Pooled)
    assert contract.padding == (PaddingVerdict("s0", "proven", "padding of s0 proven"),)
    assert Contract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract


def test_padding_is_proven_for_calls_that_are_not_masked_wholly() -> None:
    verdict = said(Attending)
    assert verdict.kind == "conditional"
    assert verdict.text.startswith(
        "padding of s0 proven for some calls, by numbers for others: softmax masks with -1e+09"
    )
    assert verdict.text.endswith(f", {verdict.source}")


def test_where_padding_is_not_proven_numbers_stay() -> None:
    verdict = said(Counting)
    assert verdict.text.startswith(
        "padding of s0 by numbers: mean over the length counts padded places, test_explained.py"
    )
    assert (verdict.kind, verdict.op) == ("numbers", "aten.mean.dim")


# --- saved ------------------------------------------------------------------------------------------------------------


def test_a_contract_that_was_saved_before_says_nothing_of_padding() -> None:
    data: dict[str, Any] = explained(Pooled).to_dict()
    del data["padding"]
    assert Contract.from_dict(data).padding == ()


@pytest.mark.parametrize("change", [{"kind": "sure"}, {"symbol": "s7"}])
def test_a_verdict_that_makes_no_sense_is_refused(change: dict[str, str]) -> None:
    data: dict[str, Any] = explained(Pooled).to_dict()
    data["padding"][0].update(change)
    with pytest.raises(ValueError, match="padding verdict"):
        Contract.from_dict(data)
