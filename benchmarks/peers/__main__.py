"""torchpool beside other engines: seconds an item of each, of its best setting, measured in turns.

    python -m benchmarks.peers [--rounds 5] [--models lstm short ...] [--engines torchpool "ONNX Runtime" ...]

An item is a single input; engines that want batches put them together within their time, by length where lengths vary.
Each setting is a process of its own, made ready once; the best median counts. Results must be those of the loop. What
an engine cannot do is told. The figure behind each engine is torchpool's speed over its.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import machine
from benchmarks.harness.standing import Standing
from benchmarks.peers.engines import settings
from benchmarks.peers.models import MODELS

ROUNDS = 5
BATCHES = (1, 8, 32)
TOLERANCE = 1e-3  # of the largest value: engines fuse in ways of their own


def _same(got: list[Tensor], wanted: list[Tensor]) -> bool:
    pairs = zip(got, wanted, strict=True)
    return all(float((a - b).abs().max()) <= TOLERANCE * float(b.abs().max()) for a, b in pairs)


def measure(name: str, rounds: int, engines: list[str]) -> dict[str, tuple[float, str]]:
    """Of each engine the median seconds of a pass with its best setting, and that setting or what went wrong."""
    found: dict[str, tuple[float, str]] = {}
    times: dict[tuple[str, tuple[Any, ...]], list[float]] = {}
    with contextlib.ExitStack() as stack:
        standing: dict[tuple[str, tuple[Any, ...]], Standing] = {}
        for engine in ("loop", *engines):
            for make, args in settings(BATCHES)[engine]:
                try:
                    standing[engine, args] = stack.enter_context(Standing(make, name, *args))
                except RuntimeError as error:
                    found[engine] = (float("nan"), str(error).strip().splitlines()[-1])
        wanted: list[Tensor] | None = None
        for number in range(rounds + 1):  # the first is not counted
            for key in list(standing):
                try:
                    done = standing[key].run()
                except RuntimeError as error:
                    del standing[key]
                    found[key[0]] = (float("nan"), str(error).strip().splitlines()[-1])
                    continue
                wanted = done.result if wanted is None else wanted
                if not _same(done.result, wanted):
                    del standing[key]
                    found[key[0]] = (float("nan"), f"{key[1]}: its results are not the loop's")
                elif number:
                    times.setdefault(key, []).append(done.seconds)
    for (engine, args), seconds in times.items():
        median = statistics.median(seconds)
        before = found.get(engine)
        if before is None or not before[0] <= median:
            found[engine] = (median, f"{args[0]} a batch" if args else "")
    return found


def main() -> int:
    """Prints a table; 1 where torchpool itself failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(settings(BATCHES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--engines", nargs="+", choices=known[1:], default=known[1:])
    args = parser.parse_args()
    described = machine.describe()
    print(f"{described['cpu']}, {described['cores_usable']} cores, {' '.join(described['cpu_flags'])}")
    print(f"torch {torch.__version__}; others keep {machine.busy_cores():.1f} cores busy", flush=True)
    failed = False
    for name in args.models:
        model = MODELS[name]()
        print(f"\n{model.title}, {len(model.items)} items", flush=True)
        found = measure(name, args.rounds, args.engines)
        ours = found.get("torchpool", (float("nan"), ""))[0]
        failed = failed or ("torchpool" in args.engines and not ours > 0)
        for engine in ("loop", *args.engines):
            seconds, text = found.get(engine, (float("nan"), "not measured"))
            if seconds > 0:
                ratio = f"{seconds / ours:8.2f}" if ours > 0 else ""
                print(f"  {engine:16}{seconds / len(model.items) * 1e6:10.1f} us an item{ratio}  {text}", flush=True)
            else:
                print(f"  {engine:16}failed: {text}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
