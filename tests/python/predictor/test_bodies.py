"""Loop bodies around a served model: what they make of its result is made on their own thread, and is the plain one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import dataclasses
import io
import threading
from collections.abc import Callable
from typing import Any

import joblib
import pytest
import torch
import tqdm.contrib.concurrent
from support import HANG, assert_close, build, draws, eager
from torch import nn

import torchpool

INPUTS = draws(40, 1, 4)
Body = Callable[[torch.Tensor], Any]


class Scores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@dataclasses.dataclass
class Found:
    label: int
    score: float
    boxes: list[torch.Tensor]
    thread: int


def number(model: nn.Module) -> Body:
    return lambda x: int(model(x).argmax())


def detections(model: nn.Module) -> Body:
    """Lists of tensors whose lengths follow from the values."""

    def detect(x: torch.Tensor) -> list[torch.Tensor]:
        (scores,) = model(x)
        return [scores[scores > 0], torch.nonzero(scores > 0)]

    return detect


def record(model: nn.Module) -> Body:
    def find(x: torch.Tensor) -> Found:
        (scores,) = model(x * 2)
        return Found(int(scores.argmax()), float(scores.max()), [scores[scores > 0], scores], threading.get_ident())

    return find


def by_standard_pool(body: Body) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(body, INPUTS))


def by_pool(body: Body) -> list[Any]:
    with torchpool.ThreadPoolExecutor(4) as pool:
        return list(pool.map(body, INPUTS))


def by_joblib(body: Body) -> list[Any]:
    return list(joblib.Parallel(n_jobs=8, prefer="threads")(joblib.delayed(body)(x) for x in INPUTS))


def by_tqdm(body: Body) -> list[Any]:
    return list(tqdm.contrib.concurrent.thread_map(body, INPUTS, max_workers=8, file=io.StringIO()))


def by_threads_of_a_loop(body: Body) -> list[Any]:
    async def gather() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(body, x) for x in INPUTS))

    return asyncio.run(gather())


def serve_by_wrap(model: nn.Module) -> tuple[Any, torchpool.Predictor]:
    predict = torchpool.wrap(model)
    return predict, predict


def serve_in_place(model: nn.Module) -> tuple[Any, torchpool.Predictor]:
    return torchpool.accelerate(model), torchpool.predictor_of(model)


def same(one: Any, other: Any) -> None:
    if isinstance(other, Found):
        assert one.label == other.label
        assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-6)
        same(one.boxes, other.boxes)
    else:
        assert_close(one, other)


@pytest.mark.parametrize("serve", [serve_by_wrap, serve_in_place])
@pytest.mark.parametrize("run", [by_standard_pool, by_pool, by_joblib, by_tqdm, by_threads_of_a_loop])
@pytest.mark.parametrize("make", [number, detections, record])
def test_a_body_gives_what_it_gives_around_the_plain_model(serve: Any, run: Any, make: Any) -> None:
    model = build(Scores)
    expected = [eager(make(model), x) for x in INPUTS]
    served, predict = serve(copy.deepcopy(model))
    threads: list[int] = []

    @torch.no_grad()
    def body(x: torch.Tensor) -> Any:
        threads.append(threading.get_ident())
        result = make(served)(x)
        assert getattr(result, "thread", threading.get_ident()) == threading.get_ident()
        return result

    results = run(body)
    for one, other in zip(results, expected, strict=True):
        same(one, other)
    assert len(threads) == len(INPUTS)
    assert predict.stats()["succeeded"] > 0


@pytest.mark.parametrize("make", [number, detections, record])
def test_a_callable_around_an_accelerated_model_may_be_wrapped_itself(make: Any) -> None:
    model = build(Scores)
    expected = [eager(make(model), x) for x in INPUTS]
    around = torchpool.wrap(make(torchpool.accelerate(copy.deepcopy(model))))
    for one, other in zip(around.map(INPUTS), expected, strict=True):
        same(one, other)


def test_awaited_calls_leave_the_rest_to_the_coroutine() -> None:
    model = build(Scores)
    predict = torchpool.wrap(model)

    async def label(x: torch.Tensor) -> int:
        return int((await predict.acall(x)).argmax())

    async def gather() -> list[int]:
        with torch.no_grad():
            return await asyncio.wait_for(asyncio.gather(*map(label, INPUTS)), HANG)

    assert asyncio.run(gather()) == [eager(number(model), x) for x in INPUTS]
