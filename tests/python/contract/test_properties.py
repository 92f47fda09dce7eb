"""Any sizes, any mixture of calls from any threads: every result is eager's."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bad_models import POISON, Masked, Raiser, assert_same, busy, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import HANG, LSTMClassifier, build, draw
from torch import nn

import torchpool

pytestmark = pytest.mark.graphs

Tensor = torch.Tensor
FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)

sizes = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=12)  # rows, length
ways = st.sampled_from(["call", "submit", "map", "starmap", "options"])


@dataclass
class Model:
    module: nn.Module
    predict: torchpool.Predictor
    make: Callable[[int, int, int], tuple[Any, ...]]
    """Rows, length and seed to a call's arguments."""


def _lstm(rows: int, length: int, seed: int) -> tuple[Any, ...]:
    return (draw(rows, length, 10, seed=seed),)


def _linear(rows: int, length: int, seed: int) -> tuple[Any, ...]:
    x = draw(rows, 4, seed=seed)
    if length == 9:
        x[0, 0] = POISON
    return (x,)


def _masked(rows: int, length: int, seed: int) -> tuple[Any, ...]:
    mask = torch.ones(rows, length)
    mask[0, length // 2 + 1 :] = 0
    return draw(rows, length, 4, seed=seed), mask


class Tabled(nn.Module):
    def forward(self, x: Tensor, table: Tensor, flip: bool) -> Tensor:
        return -(x @ table) if flip else x @ table


def _tabled(rows: int, length: int, seed: int) -> tuple[Any, ...]:
    return draw(rows, 8, seed=seed), draw(8, 4, seed=length % 3), bool(length % 2)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int, int], tuple[Any, ...]]]] = {
    "lstm": (LSTMClassifier, _lstm),
    "linear that may raise": (Raiser, _linear),
    "pooled by a mask": (Masked, _masked),
    "shared table and a flag": (Tabled, _tabled),
}
models = st.sampled_from(sorted(MODELS))


@functools.cache
def one_worker() -> torchpool.Runtime:
    return torchpool.Runtime(1)


@functools.cache
def served(name: str, alone: bool) -> Model:
    """A model on the runtime with one worker that can be held, or on the shared one."""
    module, make = build(MODELS[name][0]), MODELS[name][1]
    return Model(module, torchpool.wrap(module, example=make(1, 6, 0), runtime=one_worker() if alone else None), make)


def _check(module: nn.Module, call: tuple[Any, ...], result: Any) -> None:
    expected = outcome(module, *call)
    if isinstance(expected, Exception):
        assert (type(result), str(result)) == (type(expected), str(expected))
    else:
        assert_same(result, expected)


@FEW
@given(models, sizes)
def test_calls_that_wait_together(name: str, sizes: list[tuple[int, int]]) -> None:
    model = served(name, True)
    calls = [model.make(rows, length, seed) for seed, (rows, length) in enumerate(sizes)]
    with busy(one_worker()):
        futures = [model.predict.submit(*call) for call in calls]
    for call, future in zip(calls, futures, strict=True):
        _check(model.module, call, future.exception(HANG) or future.result())


@FEW
@given(models, sizes, st.integers(1, 6))
def test_map_with_any_look_ahead(name: str, sizes: list[tuple[int, int]], buffersize: int) -> None:
    model = served(name, False)
    calls = [model.make(rows, length, seed) for seed, (rows, length) in enumerate(sizes)]
    results = model.predict.starmap(calls, buffersize=buffersize, return_exceptions=True)
    for call, result in zip(calls, results, strict=True):
        _check(model.module, call, result)


@FEW
@given(
    models,
    st.lists(st.lists(st.tuples(ways, st.integers(1, 5), st.integers(1, 9)), max_size=6), min_size=2, max_size=4),
)
def test_threads_that_call_in_any_way(name: str, plans: list[list[tuple[str, int, int]]]) -> None:
    model = served(name, False)
    pairs: list[list[tuple[tuple[Any, ...], Any]]] = [[] for _ in plans]

    def work(number: int) -> None:
        futures = []
        for seed, (way, rows, length) in enumerate(plans[number]):
            call = model.make(rows, length, seed + 100 * number)
            if way == "submit":
                futures.append((call, model.predict.submit(*call)))
            elif way == "map":
                pairs[number].append((call, next(model.predict.map(*([a] for a in call), return_exceptions=True))))
            elif way == "starmap":
                pairs[number].append((call, next(model.predict.starmap([call], return_exceptions=True))))
            else:
                target = model.predict if way == "call" else model.predict.options(priority=rows)
                pairs[number].append((call, outcome(target, *call)))
        pairs[number] += [(call, future.exception(HANG) or future.result()) for call, future in futures]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(plans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert [len(found) for found in pairs] == [len(plan) for plan in plans]
    for call, result in (pair for found in pairs for pair in found):
        _check(model.module, call, result)


@FEW
@given(sizes, st.integers(1, 7))
def test_calls_larger_than_a_batch_are_split_rightly(sizes: list[tuple[int, int]], max_batch: int) -> None:
    module, known = served("lstm", True).module, served("lstm", True).predict.explain()
    predict = torchpool.wrap(module, batch=known, max_batch=max_batch, runtime=one_worker())
    calls = [_lstm(3 * rows, length, seed) for seed, (rows, length) in enumerate(sizes)]
    with busy(one_worker()):
        futures = [predict.submit(*call) for call in calls]
    for call, future in zip(calls, futures, strict=True):
        _check(module, call, future.exception(HANG) or future.result())
