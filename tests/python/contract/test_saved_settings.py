"""What a model is set to do, wherever that is kept, tells it from the model that a contract was saved for."""

from __future__ import annotations

import enum
import functools
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import assert_close, build, draws, eager
from torch import nn

import torchpool
from torchpool.contract import Fingerprint
from torchpool.contract.reach import Reach


class Pooling(enum.Enum):
    MASKED = 1
    SUM = 2


class Slots:
    __slots__ = ("masked",)

    def __init__(self, masked: bool) -> None:
        self.masked = masked


def _masked(h: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (h * mask[..., None]).sum(1)


def _summed(h: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return h.sum(1)


def _either(h: torch.Tensor, mask: torch.Tensor, *, masked: bool) -> torch.Tensor:
    return _masked(h, mask) if masked else _summed(h, mask)


STEPS = {"pool": _masked}
"""Read two helpers deep."""


def _inner(h: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return STEPS["pool"](h, mask)


def _outer(h: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _inner(h, mask)


class Pooled(nn.Module):
    """Leaves padding out, as it is told where `told` says."""

    def __init__(self, told: str, masked: bool) -> None:
        super().__init__()
        self.embed, self.told = nn.Embedding(50, 8), told
        self.pool: Any = None
        if told == "partial":
            self.pool = functools.partial(_either, masked=masked)
        elif told == "enum":
            self.pool = Pooling.MASKED if masked else Pooling.SUM
        elif told == "nested":
            self.config = SimpleNamespace(text=SimpleNamespace(masked=masked))
        elif told == "private":
            self.config = SimpleNamespace(_masked=masked)
        elif told == "path":
            self.path_masked = masked
        elif told == "slots":
            self.pool = Slots(masked)
        elif told == "functions":
            self.pool = {"pool": _masked if masked else _summed, "other": _summed if masked else _masked}
        elif told == "set":
            self.pool = {"masked"} if masked else {"summed"}
        elif told == "buffer":
            self.register_buffer("on", torch.tensor(1.0 if masked else 0.0))

    def _masks(self) -> bool:
        ways: dict[str, Callable[[], bool]] = {
            "enum": lambda: self.pool is Pooling.MASKED,
            "nested": lambda: self.config.text.masked,
            "private": lambda: self.config._masked,
            "path": lambda: self.path_masked,
            "slots": lambda: self.pool.masked,
            "set": lambda: "masked" in self.pool,
        }
        return ways[self.told]()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h, m = self.embed(ids), mask.float()
        if self.told == "partial":
            return self.pool(h, m)
        if self.told == "functions":
            return self.pool["pool"](h, m)
        if self.told == "helper":
            return _outer(h, m)
        if self.told == "buffer":
            return _masked(h, m * self.on + (1 - self.on))
        return _either(h, m, masked=self._masks())


@pytest.fixture(autouse=True)
def _steps() -> Iterator[None]:
    yield
    STEPS["pool"] = _masked


def _call(length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = draws(1, 1, length, seed=seed)[0] if seed else draws(1, 1, length)[0]
    return (x.abs() * 10).long() % 49 + 1, torch.ones(1, length, dtype=torch.long)


def _saved(told: str) -> Any:
    model = build(lambda: Pooled(told, True))
    predict = torchpool.wrap(model, example=[_call(5), _call(9)])
    saved = json.loads(json.dumps(predict.explain().to_dict()))
    assert saved["contracts"][0]["padded"] == ["s0"]
    return saved


TOLD = ["partial", "enum", "nested", "private", "path", "slots", "functions", "set", "helper"]


@pytest.mark.parametrize("told", [*TOLD, "buffer"])
def test_a_model_that_no_longer_leaves_padding_out_is_not_padded(told: str) -> None:
    saved = _saved(told)
    if told == "helper":
        STEPS["pool"] = _summed
    model = build(lambda: Pooled(told, False))
    predict = torchpool.wrap(model, batch=saved)
    predict(*_call(6))
    calls = [_call(3 + i % 5) for i in range(20)]
    for result, call in zip(predict.starmap(calls), calls, strict=True):
        assert_close(result, eager(model, *call))
    text = str(predict.explain())
    expected = "padding changes output" if told == "buffer" else "it was saved for another model"
    assert f"a saved contract is not used, and calls are probed anew: {expected}" in text
    assert not predict.explain().contracts[0].padded


@pytest.mark.parametrize("told", [*TOLD, "buffer"])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_model_that_still_does_is(told: str, length: int) -> None:
    predict = torchpool.wrap(build(lambda: Pooled(told, True)), batch=_saved(told))
    predict(*_call(length))
    assert "not used" not in str(predict.explain())
    assert predict.explain().contracts[0].padded == {"s0"}


def test_where_a_model_comes_from_is_no_setting() -> None:
    def fingerprint(name: str, path: str) -> Fingerprint:
        model = build(lambda: Pooled("private", True))
        model.config.name_or_path, model.config._commit_hash, model.weights_path = name, name, path
        return Fingerprint.of(model, Reach(model, model))

    assert fingerprint("text", "/models/a") == fingerprint("other", "/models/b")
    assert fingerprint("text", "slow") != fingerprint("text", "fast")
