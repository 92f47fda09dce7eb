"""One model through all engines, each in a process of its own, their passes in turns."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness.standing import Standing
from benchmarks.peers.engines import BATCHES_ONLY, ENCODERS_ONLY, ENGINES, READ_ONNX, Pass, export_onnx
from benchmarks.peers.models import MODELS

PREPARING = 120.0  # seconds that an engine may take, until it has chosen its best setting
RUNNING = 60.0  # seconds that a pass may take
HOPELESS = 2.0  # times the best setting's time in its first pass, and a setting gets no second one
REST = 0.1  # seconds until the threads of the one before sleep
TOLERANCE = 1e-3  # of the largest value: engines fuse in ways of their own


@dataclass(frozen=True)
class Outcome:
    """What an engine has reached with a model."""

    seconds: float | None = None
    """An item, the median of the rounds; None where it has failed."""
    setting: str = ""
    failure: str = ""


def _timed(run: Pass) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _prepare(engine: str, name: str, folder: str) -> Callable[[], tuple[str, float, Any]]:
    """A pass of the engine's best setting, by one pass each after one that warms it up."""
    model = MODELS[name]()
    best: tuple[float, str, Pass] | None = None
    failure: Exception | None = None
    for setting, made in ENGINES[engine](model, Path(folder)):
        try:
            run = made()
            if best is not None and _timed(run) > HOPELESS * best[0]:
                continue
            seconds = min(_timed(run) for _ in range(2 if best is None else 1))
        except Exception as error:  # another setting may do
            failure = error
            continue
        if best is None or seconds < best[0]:
            best = seconds, setting, run
    if best is None:
        raise failure or RuntimeError("no setting suits the model")
    _, chosen, run = best

    def whole() -> tuple[str, float, Any]:
        start = time.perf_counter()
        results = run()
        seconds = time.perf_counter() - start
        return chosen, seconds / len(results), torch.cat(results).detach().numpy().copy()

    return whole


def _export(name: str, folder: str) -> Callable[[], None]:
    export_onnx(MODELS[name](), Path(folder))
    return lambda: None


def _failed(error: Exception, doing: str = "") -> Outcome:
    return Outcome(failure=f"failed: {doing}{str(error).strip().splitlines()[-1]}")


def _same(got: Any, wanted: Any) -> bool:
    return got.shape == wanted.shape and float(np.abs(got - wanted).max()) <= TOLERANCE * float(np.abs(wanted).max())


def measure(name: str, engines: Sequence[str], rounds: int, told: Callable[[str], None]) -> dict[str, Outcome]:
    """What each engine reaches; all results must be those of the plain loop, which always runs."""
    engines = [*engines, *({"loop"} - set(engines))]
    model = MODELS[name]()
    encodes, alone = model.encoder is not None, model.alone
    failed: dict[str, Outcome] = {}
    times: dict[str, list[float]] = {engine: [] for engine in engines}
    settings: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        no_file: Outcome | None = None
        if READ_ONNX.intersection(engines):
            told("export to ONNX")
            try:
                Standing(_export, name, folder, limit=PREPARING, gently=False).close()
            except RuntimeError as error:
                no_file = _failed(error, "export to ONNX: ")
        standing: dict[str, Standing] = {}
        for engine in engines:
            if no_file and engine in READ_ONNX:
                failed[engine] = no_file
                continue
            if alone and engine in BATCHES_ONLY:
                failed[engine] = Outcome(failure="does not apply: one item at a time makes no batches")
                continue
            if not encodes and engine in ENCODERS_ONLY:
                failed[engine] = Outcome(failure="does not apply: it runs transformers only, of kinds that it knows")
                continue
            told(f"{engine} prepares")
            try:
                one = Standing(_prepare, engine, name, folder, limit=PREPARING, gently=False)
                standing[engine] = stack.enter_context(one)
            except RuntimeError as error:
                failed[engine] = _failed(error)
        wanted: Any = None
        for number in range(rounds + 1):  # the first is not counted
            order = ["loop", *(engine for engine in standing if engine != "loop")]
            if number:
                order = order[number % len(order) :] + order[: number % len(order)]
            for engine in order:
                if engine not in standing:
                    continue
                told(f"round {number}: {engine}")
                time.sleep(REST)
                try:
                    settings[engine], seconds, results = standing[engine].run(RUNNING).result
                except RuntimeError as error:
                    del standing[engine]
                    failed[engine] = _failed(error)
                    continue
                wanted = results if wanted is None else wanted
                if not _same(results, wanted):
                    del standing[engine]
                    failed[engine] = Outcome(failure="failed: its results are not the loop's")
                elif number:
                    times[engine].append(seconds)
    reached = {engine: statistics.median(each) for engine, each in times.items() if each and engine not in failed}
    outcomes = {engine: Outcome(seconds, settings[engine]) for engine, seconds in reached.items()}
    return {engine: failed.get(engine) or outcomes[engine] for engine in engines}
