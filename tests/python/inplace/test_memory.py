"""An accelerated module is freed when its user drops it, with all that was learned of it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from inplace_support import Classifier, classifier, serve_once, x
from support import assert_close, build, eager
from torch import nn

import torchpool


def refs(model: Any) -> list[weakref.ref[Any]]:
    return [weakref.ref(model), weakref.ref(torchpool.predictor_of(model)), weakref.ref(model.inner)]


@pytest.mark.graphs
@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("backend", ["auto", "python"])
def test_it_is_freed_at_once(backend: str) -> None:
    model = torchpool.accelerate(classifier(), backend=backend)
    serve_once(model, x())
    assert torchpool.predictor_of(model).ready(60)
    serve_once(model, x())
    kept = refs(model)
    del model
    assert [ref() for ref in kept] == [None] * 3


class Circular(Classifier):
    """Refers to itself in the ways that models do."""

    def __init__(self) -> None:
        super().__init__()
        self.alias = [self]
        self.method = self.predict
        self.inner.parent = {"of": self}  # type: ignore[assignment]


@pytest.mark.graphs
@pytest.mark.parametrize("backend", ["auto", "python"])
def test_one_that_refers_to_itself_is_freed_by_the_collector(backend: str) -> None:
    gc.collect()
    model = torchpool.accelerate(build(Circular), backend=backend)
    serve_once(model, x())
    assert torchpool.predictor_of(model).ready(60)
    serve_once(model, x())
    kept = refs(model)
    model.temperature = 2.0  # another state: that of before is kept aside
    serve_once(model, x())
    assert torchpool.predictor_of(model).ready(60)
    del model
    for _ in range(3):
        gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_one_that_refers_to_itself_is_collected_while_it_is_restored_too() -> None:
    model = torchpool.accelerate(build(Circular))
    serve_once(model, x())
    kept = refs(model)
    torchpool.restore(model)
    del model
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


@pytest.mark.usefixtures("no_gc")
def test_who_keeps_the_predictor_may_use_it_without_the_module() -> None:
    model = torchpool.accelerate(classifier())
    expected = serve_once(model, x())
    predictor, ref = torchpool.predictor_of(model), weakref.ref(model)
    del model
    assert ref() is None
    assert_close(predictor(x()), expected)
    assert type(predictor.model) is Classifier


def test_calls_handed_over_are_answered_without_the_module() -> None:
    model = torchpool.accelerate(classifier())
    expected = serve_once(model, x())
    predictor = torchpool.predictor_of(model)
    futures = [predictor.submit(x()) for _ in range(20)]
    del model
    for future in futures:
        assert_close(future.result(60), expected)


def test_what_ends_with_the_module_ends_once() -> None:
    ended = []

    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(10, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

        def __del__(self) -> None:
            ended.append(id(self))

    model = torchpool.accelerate(build(Ends))
    serve_once(model, x())
    torchpool.restore(model)
    gc.collect()
    assert ended == []
    assert eager(model, x()).shape == (1, 3)
    torchpool.accelerate(model)
    serve_once(model, x())
    expected = id(model)
    del model
    gc.collect()
    assert ended == [expected]
