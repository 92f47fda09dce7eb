"""len() of a map: how many results are left, where all of its inputs say how many there are."""

from __future__ import annotations

import itertools
import operator
from typing import Any

import pytest
import torch
from map_sources import Column, Indexed, Stream
from support import POISON, MarkerModule, build, draw, row
from torch.utils import data

import torchpool

INPUTS = draw(7, 4)


@pytest.fixture(scope="module")
def predict() -> torchpool.Predictor:
    return torchpool.wrap(build(MarkerModule), example=draw(1, 4))


def loader(dataset: Any, size: int) -> data.DataLoader[Any]:
    return data.DataLoader(dataset, batch_size=size, generator=torch.Generator())


@pytest.mark.parametrize(
    ("source", "length"),
    [
        (INPUTS, 7),
        (INPUTS.numpy(), 7),
        (list(INPUTS), 7),
        ({"x": INPUTS}, 7),
        (Indexed(INPUTS), 7),
        (Column(INPUTS.tolist()), 7),
        (loader(INPUTS, 3), 3),
        (loader(data.TensorDataset(INPUTS), 2), 4),
        ([], 0),
    ],
)
def test_it_is_that_of_the_input(predict: torchpool.Predictor, source: Any, length: int) -> None:
    results = predict.map(source)
    assert len(results) == length
    assert len(list(results)) == length


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("buffersize", [None, 1, 3])
def test_it_counts_what_is_left(predict: torchpool.Predictor, ordered: bool, buffersize: int | None) -> None:
    results = predict.map(INPUTS, ordered=ordered, buffersize=buffersize)
    for taken in range(7):
        assert len(results) == operator.length_hint(results) == 7 - taken
        next(results)
    assert len(results) == 0
    assert next(results, None) is None


def test_the_shortest_input_counts(predict: torchpool.Predictor) -> None:
    pairs = torchpool.wrap(lambda a, b: a + b)
    assert len(pairs.map(INPUTS, list(INPUTS)[:5])) == 5
    assert len(predict.starmap([(x,) for x in INPUTS])) == 7


@pytest.mark.parametrize("source", [lambda: (x for x in INPUTS), lambda: loader(Stream(INPUTS), 2)])
def test_without_a_length_of_the_input_there_is_none(predict: torchpool.Predictor, source: Any) -> None:
    results = predict.map(source())
    with pytest.raises(TypeError, match="has no len"):
        len(results)
    assert bool(results)
    list(results)
    assert operator.length_hint(results, -1) == 0


def test_an_input_without_a_length_leaves_a_hint() -> None:
    pairs = torchpool.wrap(lambda a, b: a + b)
    results = pairs.map(INPUTS, itertools.count())
    assert operator.length_hint(results) == 7
    next(results)
    assert operator.length_hint(results) == 6
    assert operator.length_hint(torchpool.wrap(abs).map(itertools.count(), buffersize=2), 99) == 99
    assert operator.length_hint(torchpool.wrap(abs).map(iter([1, 2, 3]), buffersize=1)) == 3


def test_none_are_left_of_a_map_that_was_closed_or_has_failed(predict: torchpool.Predictor) -> None:
    closed = predict.map(INPUTS)
    closed.close()
    assert len(closed) == 0
    failed = predict.map([row(POISON), row(1), row(2)])
    with pytest.raises(ValueError, match="a poisoned row"):
        next(failed)
    assert len(failed) == 0


def test_a_bar_has_the_number_of_batches(predict: torchpool.Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    assert len(list(predict.map(loader(INPUTS, 3), progress=True))) == 3
    assert "3/3" in capsys.readouterr().err
    assert len(list(predict.map(loader(Stream(INPUTS), 3), progress=True))) == 3
    assert "3it" in capsys.readouterr().err
