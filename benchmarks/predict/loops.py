"""Loops that other libraries run, before and after the one line of docs/loops.md: `python -m benchmarks.predict.loops`.

The model is a small CNN, an item an image of 28 x 28. Before and after take turns in one process, so that a change of
the machine's speed meets both; each result is compared with the model's own. What is not installed is left out.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import data

import torchpool
from benchmarks.harness.machine import short_name
from benchmarks.harness.models import SimpleCNN, build

ITEMS = 600
ROUNDS = 5
CLIENTS = 32  # requests on their way to a server

Loop = Callable[[], list[int]]
Pair = tuple[Loop, Loop]
Model = Callable[[Tensor], Tensor]


def body(model: Model) -> Callable[[Tensor], int]:
    @torch.no_grad()
    def label(x: Tensor) -> int:
        return int(model(x).argmax())

    return label


@contextmanager
def joblib_threads(model: Model, predict: torchpool.Predictor, xs: list[Tensor]) -> Iterator[Pair]:
    from joblib import Parallel, delayed

    def loop(served: Model, threads: int) -> list[int]:
        return list(Parallel(n_jobs=threads, prefer="threads")(delayed(body(served))(x) for x in xs))

    yield lambda: loop(model, 4), lambda: loop(predict, 32)


@contextmanager
def tqdm_thread_map(model: Model, predict: torchpool.Predictor, xs: list[Tensor]) -> Iterator[Pair]:
    from tqdm.contrib.concurrent import thread_map

    def loop(served: Model, threads: int) -> list[int]:
        return list(thread_map(body(served), xs, max_workers=threads, disable=True))

    yield lambda: loop(model, 4), lambda: loop(predict, 32)


@contextmanager
def flask_route(model: Model, predict: torchpool.Predictor, xs: list[Tensor]) -> Iterator[Pair]:
    import flask

    app = flask.Flask("loops")
    served = {"before": body(model), "after": body(predict)}

    @app.get("/<which>/<int:index>")
    def route(which: str, index: int) -> str:
        return str(served[which](xs[index]))

    def ask(path: str) -> int:
        return int(app.test_client().get(path).data)

    def loop(which: str) -> list[int]:
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:  # a server has a thread for each request
            return list(clients.map(ask, (f"/{which}/{index}" for index in range(len(xs)))))

    yield lambda: loop("before"), lambda: loop("after")


def _fastapi(model: Model, predict: torchpool.Predictor, xs: list[Tensor], *, awaited: bool) -> Pair:
    import fastapi
    import httpx

    app = fastapi.FastAPI()
    served = {"before": body(model), "after": body(predict)}

    if awaited:

        @app.get("/before/{index}")
        async def blocking(index: int) -> int:
            return served["before"](xs[index])

        @app.get("/after/{index}")
        async def answer(index: int) -> int:
            with torch.no_grad():
                return int((await predict.acall(xs[index])).argmax())

    else:

        @app.get("/{which}/{index}")
        def route(which: str, index: int) -> int:
            return served[which](xs[index])

    async def ask_all(which: str) -> list[int]:
        room = asyncio.Semaphore(CLIENTS)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:

            async def ask(index: int) -> int:
                async with room:
                    return int((await client.get(f"/{which}/{index}")).text)

            return await asyncio.gather(*map(ask, range(len(xs))))

    return lambda: asyncio.run(ask_all("before")), lambda: asyncio.run(ask_all("after"))


@contextmanager
def fastapi_def(model: Model, predict: torchpool.Predictor, xs: list[Tensor]) -> Iterator[Pair]:
    yield _fastapi(model, predict, xs, awaited=False)


@contextmanager
def fastapi_async_def(model: Model, predict: torchpool.Predictor, xs: list[Tensor]) -> Iterator[Pair]:
    yield _fastapi(model, predict, xs, awaited=True)


def _loader(size: int) -> Callable[[Model, torchpool.Predictor, list[Tensor]], Any]:
    @contextmanager
    def loader_of(model: Model, predict: torchpool.Predictor, xs: list[Tensor]) -> Iterator[Pair]:
        loader = data.DataLoader(data.TensorDataset(torch.cat(xs), torch.arange(len(xs))), batch_size=size)

        def before() -> list[int]:
            return [label for x, _ in loader for label in model(x).argmax(1).tolist()]

        def after() -> list[int]:
            return [label for y in predict.map(loader) for label in y.argmax(1).tolist()]

        yield before, after

    return loader_of


@contextmanager
def pandas_column(model: Model, predict: torchpool.Predictor, xs: list[Tensor]) -> Iterator[Pair]:
    import pandas

    column = pandas.Series([x[0].numpy() for x in xs])

    def before() -> list[int]:
        return list(column.map(lambda array: int(model(torch.from_numpy(array)[None]).argmax())))

    yield before, lambda: [int(y.argmax()) for y in predict.map(column)]


@contextmanager
def hugging_face_dataset(model: Model, predict: torchpool.Predictor, xs: list[Tensor]) -> Iterator[Pair]:
    import datasets

    rows = datasets.Dataset.from_dict({"x": [x[0].tolist() for x in xs]})

    def before() -> list[int]:
        return [int(model(torch.tensor(row["x"])[None]).argmax()) for row in rows]

    yield before, lambda: [int(y.argmax()) for y in predict.map(rows)]


LOOPS = {
    "joblib, 4 threads; 32": ("joblib", joblib_threads),
    "tqdm thread_map, 4; 32": ("tqdm", tqdm_thread_map),
    "Flask, 32 threads": ("flask", flask_route),
    "FastAPI def": ("fastapi", fastapi_def),
    "FastAPI async def, acall": ("fastapi", fastapi_async_def),
    "DataLoader, batches of 1": ("torch", _loader(1)),
    "DataLoader, batches of 32": ("torch", _loader(32)),
    "pandas column": ("pandas", pandas_column),
    "datasets rows": ("datasets", hugging_face_dataset),
}


def us_an_item(loop: Loop, expected: list[int]) -> float:
    start = time.perf_counter()
    found = loop()
    took = time.perf_counter() - start
    if found != expected:
        raise AssertionError("a loop gave other labels than the model")
    return took / len(expected) * 1e6


@torch.no_grad()
def main() -> int:
    model = build(SimpleCNN)
    random = torch.Generator().manual_seed(0)
    xs = list(torch.randn(ITEMS, 1, 1, 28, 28, generator=random))
    expected = [int(model(x).argmax()) for x in xs]
    predict = torchpool.wrap(model, example=xs[0])
    predict.ready(60)
    print(f"{short_name()}; us an item, medians of {ROUNDS}")
    for name, (package, make) in LOOPS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{name:28} {package} is not installed")
            continue
        with make(model, predict, xs) as (before, after):
            times = [(us_an_item(before, expected), us_an_item(after, expected)) for _ in range(ROUNDS + 1)][1:]
        one, other = (statistics.median(each) for each in zip(*times, strict=True))
        ratios = [a / b for a, b in times]
        print(f"{name:28} {one:6.0f} {other:6.0f} {one / other:5.1f} x ({min(ratios):.1f} to {max(ratios):.1f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
