"""Models whose rows meet only when the data says so: every call gets what the model gives for it alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from leaky_models import LEAKY, Inputs, model_of
from support import HANG

import torchpool

pytestmark = pytest.mark.graphs


def _by_map(predict: torchpool.Predictor, calls: list[Inputs]) -> list[torch.Tensor]:
    return list(predict.starmap(calls, timeout=HANG))


def _by_threads(predict: torchpool.Predictor, calls: list[Inputs]) -> list[torch.Tensor]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda call: predict(*call), calls, timeout=HANG))


def _by_submit(predict: torchpool.Predictor, calls: list[Inputs]) -> list[torch.Tensor]:
    futures = [predict.submit(*call) for call in calls]
    return [future.result(HANG) for future in futures]


WAYS: list[Callable[[torchpool.Predictor, list[Inputs]], list[torch.Tensor]]] = [_by_map, _by_threads, _by_submit]


def _differs(got: torch.Tensor, want: torch.Tensor) -> bool:
    scale = want.nan_to_num().abs().max().clamp_min(1e-12)
    same_shape = got.shape == want.shape and torch.equal(got.isnan(), want.isnan())
    return not same_shape or bool(((got - want).nan_to_num().abs() > 1e-5 * scale).any())


@pytest.mark.parametrize("count", [120, pytest.param(1500, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", LEAKY)
def test_calls_do_not_meet(name: str, count: int) -> None:
    model = model_of(name)
    calls = LEAKY[name][1](count)
    with torch.no_grad():
        want = [model(*call) for call in calls]
        merged = model(*(torch.cat(parts) for parts in zip(*calls, strict=True)))
    rows = merged.split(1)
    assert any(_differs(*pair) for pair in zip(rows, want, strict=True)), "rows of this model do not meet"
    predict = torchpool.wrap(model)
    first = predict(*calls[0])
    predict.ready(HANG)
    assert not _differs(first, want[0])
    for way in WAYS:
        wrong = [i for i, pair in enumerate(zip(way(predict, calls), want, strict=True)) if _differs(*pair)]
        assert not wrong, f"{way.__name__}: calls {wrong[:5]} of {count}: {predict.explain()}"
    verdict = predict.explain().contracts[0].rows
    assert verdict is not None
    assert verdict.kind in ("mixes", "lifted"), verdict
    assert verdict.source is not None
