"""Models whose rows meet, served in shared batches by lifted graphs: each call gets what it gets alone."""

from __future__ import annotations

import pytest
from support import HANG, assert_close, build, draw, eager
from torch import Tensor, nn

import torchpool
from torchpool.predictor import building

pytestmark = pytest.mark.graphs


@pytest.fixture(autouse=True)
def _as_if_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lifted graph serves where it is measured faster, which on a busy machine it may not be."""
    monkeypatch.setattr(building, "_refuse_slower", lambda *args: None)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x / (x.abs().max() + 1e-6))


class Total(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x - x.mean(0)), x.amax()


class Along(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


@pytest.mark.parametrize(("cls", "size"), [(Scaled, (1, 8)), (Total, (1, 8)), (Total, (8,)), (Centred, (4, 8))])
def test_calls_of_a_batch_get_what_they_get_alone(cls: type[nn.Module], size: tuple[int, ...]) -> None:
    model = build(cls)
    calls = [draw(*size, seed=seed) * 10.0 ** (seed % 7 - 3) for seed in range(20)]
    with torchpool.wrap(model, example=calls[0], verify=1) as predict:
        assert predict.ready(HANG)
        explained = predict.explain()
        assert explained.served_by == ("graph",)
        assert explained.contracts[0].rows.kind == "lifted"
        assert "ops run per call" in str(explained)
        for call, result in zip(calls, predict.map(calls), strict=True):
            assert_close(result, eager(model, call))
        assert predict.stats()["fell_back"] == predict.stats()["refuted"] == 0


def test_calls_of_other_numbers_of_rows_get_theirs() -> None:
    model = build(Centred)
    calls = [draw(2 + seed % 4, 8, seed=seed) for seed in range(24)]
    with torchpool.wrap(model, example=calls[2]) as predict:
        assert predict.ready(HANG)
        for call, result in zip(calls, predict.map(calls), strict=True):
            assert_close(result, eager(model, call))


def test_what_is_not_lifted_runs_alone_and_says_why() -> None:
    model, calls = build(Along), [draw(4, 8, seed=seed) for seed in range(5)]
    with torchpool.wrap(model, example=calls[0]) as predict:
        assert predict.ready(HANG)
        text = str(predict.explain())
        assert "lstm along the rows" in text and "not lifted: aten.lstm.input has no rule for vmap" in text
        for call in calls:
            assert_close(predict(call), eager(model, call))
