"""Outputs that fold rows with other dims: calls merge, and each gets what it gives alone."""

from __future__ import annotations

import contextlib

import pytest
from folding_models import FOLDING
from support import HANG, assert_close, build, eager, run_threads

import torchpool

pytestmark = pytest.mark.graphs
THREADS, EACH = 8, 24


@pytest.mark.parametrize("backend", ["auto", "python"])
@pytest.mark.parametrize("name", FOLDING)
def test_calls_of_many_threads(name: str, backend: str) -> None:
    cls, make, options = FOLDING[name]
    model = build(cls)
    calls = [make(seed) for seed in range(THREADS * EACH)]
    with contextlib.closing(torchpool.Runtime(1)) as runtime:
        predict = torchpool.wrap(model, backend=backend, runtime=runtime, verify=0, **options)
        for args, kwargs in calls[:8]:
            predict(*args, **kwargs)
        assert predict.ready(HANG)
        before = predict.stats()["batch_rows"]["count"]

        def work(number: int) -> list[object]:
            futures = [predict.submit(*args, **kwargs) for args, kwargs in calls[number::THREADS]]
            return [future.result(HANG) for future in futures]

        for number, results in enumerate(run_threads(THREADS, work)):
            for (args, kwargs), result in zip(calls[number::THREADS], results, strict=True):
                assert_close(result, eager(model, *args, **kwargs))
        stats = predict.stats()
        assert stats["batch_rows"]["count"] - before < len(calls), "calls were not merged"
        assert stats["fell_back"] == stats["failed"] == 0
        if "ragged" in name:
            assert stats["padding"] > 0, "lengths were not merged"
        assert predict.explain().to_dict()["backend"] == ("python" if backend == "python" else "graph")
