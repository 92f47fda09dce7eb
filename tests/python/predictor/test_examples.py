"""What is told of an example that shows no call, or that the model refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bad_models import Raiser
from support import build, draw
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchpool


def test_an_example_of_wrong_shape_is_told_where_the_model_refused_it() -> None:
    with pytest.raises(ValueError) as told:
        torchpool.wrap(build(Raiser), example=draw(1, 5))
    text = str(told.value)
    assert text.startswith("example: the model refuses a call with (x: float32 (1, 5)): RuntimeError: mat1 and mat2")
    assert "in linear, Linear(in_features=4, out_features=3, bias=True), which was given float32 (1, 5)" in text
    assert "a tuple of positional arguments; a mapping of keyword arguments" in text
    assert isinstance(told.value.__cause__, RuntimeError), "the model's own error, with where it was raised"


def test_a_layer_by_itself_is_named_by_what_it_is(seeded: None) -> None:
    with pytest.raises(ValueError, match=r"\(in Embedding\(10, 3\), which was given float32 \(1, 4\)\)"):
        torchpool.wrap(nn.Embedding(10, 3), example=draw(1, 4))


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ((draw(1, 4), draw(1, 4)), r"\(x: float32 \(1, 4\), args\[1\]: float32 \(1, 4\)\): TypeError: .*positional"),
        ({"y": draw(1, 4)}, r"\(y: float32 \(1, 4\)\): TypeError: .*unexpected keyword argument 'y'"),
        ([draw(1, 4), {"y": draw(1, 4)}], r"example\[1\]: the model refuses a call with \(y: "),
    ],
)
def test_an_example_with_other_arguments_stays_a_type_error(example: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        torchpool.wrap(build(Raiser), example=example)


def test_an_example_of_a_function_is_told_too() -> None:
    model = build(Raiser)
    with pytest.raises(ValueError, match=r"example: the model refuses a call with \(x: float32 \(1, 5\)\)"):
        torchpool.wrap(lambda x: model(x), example=draw(1, 5))


def test_an_example_of_a_graph_that_is_required_is_told_too() -> None:
    with pytest.raises(ValueError, match="example: the model refuses a call"):
        torchpool.wrap(build(Raiser), example=draw(1, 5), backend="graph")
    with pytest.raises(RuntimeError, match="example: the model refuses a call"):
        torchpool.accelerate(build(Raiser), example=draw(1, 5))


def test_what_wrap_itself_refuses_keeps_its_words(seeded: None) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    with pytest.raises(ValueError, match=r"^model is in train mode"):
        torchpool.wrap(model, example=draw(1, 4))


@pytest.mark.parametrize("example", [(1, 4), [1, 4], torch.Size([1, 4])], ids=str)
def test_a_shape_is_no_example(example: Any) -> None:
    with pytest.raises(TypeError, match=r"a shape: example=torch\.zeros\(1, 4\)"):
        torchpool.wrap(build(Raiser), example=example)


def test_a_loader_or_a_dataset_is_no_example() -> None:
    data = TensorDataset(draw(4, 4))
    with pytest.raises(TypeError, match=r"got a DataLoader: .*x, \*_ = next\(iter\(loader\)\)"):
        torchpool.wrap(build(Raiser), example=DataLoader(data))
    with pytest.raises(TypeError, match=r"got a TensorDataset: .*x, \*_ = dataset\[0\]"):
        torchpool.wrap(build(Raiser), example=data)
