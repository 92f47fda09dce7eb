"""Probing that did not end is no last word, and kinds of calls that are not used any more make room for others."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support import MarkerModule, assert_close, build, eager, row
from torch import nn

import torchpool
from torchpool.predictor import retries

NEVER_ENOUGH = 1e-9  # seconds


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probing is tried again with the next call."""
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.0)


def modes(predict: torchpool.Predictor) -> list[str]:
    return [contract.mode for contract in predict.explain().contracts]


def test_what_did_not_end_is_tried_again(soon: None) -> None:
    predict = torchpool.wrap(build(MarkerModule), probe_timeout=NEVER_ENOUGH)
    assert_close(predict(row(1)), eager(predict.model, row(1)))
    assert modes(predict) == ["alone"]
    assert "probing did not end within 1e-09 s" in str(predict.explain())
    assert "it is tried again later" in str(predict.explain())
    predict._learner._probes._max_seconds = 20.0  # the machine has time now
    assert_close(predict(row(2)), eager(predict.model, row(2)))
    assert modes(predict) == ["merge"]


@pytest.mark.parametrize("way", ["submit", "map"])
def test_those_that_are_submitted_try_again_too(soon: None, way: str) -> None:
    predict = torchpool.wrap(build(MarkerModule), probe_timeout=NEVER_ENOUGH, example=row())
    predict._learner._probes._max_seconds = 20.0
    result = predict.submit(row(1)).result() if way == "submit" else next(predict.map([row(1)]))
    assert_close(result, eager(predict.model, row(1)))
    assert modes(predict) == ["merge"]


def test_it_is_tried_again_at_growing_distance() -> None:
    predict = torchpool.wrap(build(MarkerModule), probe_timeout=NEVER_ENOUGH, example=row())
    pauses = [predict._learner.retries.again_in(0) for _ in range(10)]  # the first one was taken at the first call
    assert pauses == [20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0, 3600.0, 3600.0]


def test_until_then_it_is_not_tried() -> None:
    runs: list[int] = []

    class Sees(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            runs.append(1)
            return x * 2

    predict = torchpool.wrap(build(Sees), probe_timeout=NEVER_ENOUGH, example=row())
    before = len(runs)
    for number in range(10):
        predict(row(number))
    assert len(runs) == before + 10


def test_it_is_saved_for_nobody() -> None:
    predict = torchpool.wrap(build(MarkerModule), probe_timeout=NEVER_ENOUGH)
    predict(row())
    saved = predict.explain().to_dict()
    assert saved["contracts"]
    assert modes(torchpool.wrap(predict.model, batch=saved, example=row())) == ["merge"]
    copied = pickle.loads(pickle.dumps(predict))
    copied._learner._probes._max_seconds = 20.0
    copied(row())
    assert modes(copied) == ["merge"]


def test_where_a_proof_is_required_the_reason_is_raised_and_the_next_call_tries_again() -> None:
    predict = torchpool.wrap(build(MarkerModule), prove="required", probe_timeout=NEVER_ENOUGH)
    for _ in range(2):
        with pytest.raises(ValueError, match="prove='required': probing did not end within"):
            predict(row())
    assert not predict._learner._refusals


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), "long", True])
def test_a_time_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="probe_timeout must be a number of seconds above 0, got"):
        torchpool.wrap(build(MarkerModule), probe_timeout=wrong)


class Scales(nn.Module):
    """Each scale is a kind of call."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[int] = []

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        self.runs.append(scale)
        return x * scale


@pytest.fixture
def full() -> Iterator[torchpool.Predictor]:
    """With as many kinds as are kept, each with a use that is worth it."""
    predict = torchpool.wrap(build(Scales))
    for scale in range(64):
        for _ in range(20):
            predict(row(), scale)
    yield predict
    predict.close()


def known(predict: torchpool.Predictor) -> list[int]:
    return sorted(int(dict(contract.values)["scale"]) for contract in predict.explain().contracts)


def test_a_kind_that_was_not_used_for_long_makes_room(full: torchpool.Predictor) -> None:
    for _ in range(1100):
        for scale in range(1, 3):
            full(row(), scale)
    assert_close(full(row(1), 64), row(1) * 64)
    assert known(full) == list(range(1, 65))
    assert_close(full(row(1), 0), row(1) * 0)  # which has made room is answered all the same


def test_kinds_that_take_turns_are_not_learned_again_and_again(full: torchpool.Predictor) -> None:
    assert isinstance(full.model, Scales)
    full.model.runs.clear()
    for _ in range(3):
        for scale in range(65):
            full(row(), scale)
    assert full.model.runs.count(64) == 3
    assert known(full) == list(range(64))
    assert "until one of these was not used for long" in str(full.explain())
