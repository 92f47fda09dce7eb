"""Calls of a predictor with grad mode on: its results have no gradients, and whoever expects them is told."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import MarkerModule, build, row

import torchpool


def told(work: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    return [one for one in caught if "torch.no_grad()" in str(one.message)]


async def awaited(predict: torchpool.Predictor) -> Any:
    return await predict.acall(row())


WAYS: dict[str, Callable[[torchpool.Predictor], Any]] = {
    "call": lambda predict: predict(row()),
    "submit": lambda predict: predict.submit(row()).result(60),
    "map": lambda predict: list(predict.map([row()] * 3)),
    "await": lambda predict: asyncio.run(awaited(predict)),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_said_once(way: str) -> None:
    predict = torchpool.wrap(build(MarkerModule))

    def work() -> None:
        for _ in range(5):
            WAYS[way](predict)

    first = told(work)
    assert len(first) == 1
    assert first[0].category is UserWarning
    assert told(work) == []


@pytest.mark.parametrize("way", WAYS)
def test_not_where_the_model_would_give_none(way: str) -> None:
    predict = torchpool.wrap(build(MarkerModule))
    with torch.no_grad():
        assert told(lambda: WAYS[way](predict)) == []
    with torch.inference_mode():
        assert told(lambda: WAYS[way](predict)) == []
    frozen = torchpool.wrap(build(MarkerModule).requires_grad_(False))
    function = torchpool.wrap(lambda x: x + 1)
    assert told(lambda: [WAYS[way](one) for one in (frozen, function)]) == []


def test_weights_that_are_frozen_no_longer_are_seen_after_a_while() -> None:
    model = build(MarkerModule).requires_grad_(False)
    predict = torchpool.wrap(model)
    assert told(lambda: [predict(row()) for _ in range(10)]) == []
    model.requires_grad_()
    assert len(told(lambda: [predict(row()) for _ in range(10)])) == 1


def test_it_names_the_line_that_calls() -> None:
    predict = torchpool.wrap(build(MarkerModule))
    (warning,) = told(lambda: predict(row()))
    assert warning.filename == __file__


def test_as_an_error_it_is_the_callers() -> None:
    predict = torchpool.wrap(build(MarkerModule))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="no grad_fn"):
            predict(row())
    assert predict(row()).shape == (1, 3)
