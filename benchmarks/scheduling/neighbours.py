"""Two predictors on one runtime, one of them flooded: `python -m benchmarks.scheduling.neighbours`.

The quiet one gets few calls by chance; its p99 alone, and beside another predictor whose queue is never empty, differ
by one batch of the other at most.
"""

import threading
from typing import Any

from benchmarks.harness.wanted import Figure, report
from benchmarks.scheduling.load import Loaded, describe, percentile, poisson, prepare

QUIET, FLOODED = "cnn", "short"
SECONDS = 5.0
ROUNDS = 3
RATE = 100.0  # of the quiet one's calls, a second


def flood(loaded: Loaded, end: threading.Event) -> None:
    while not end.is_set():
        loaded.run([0.0] * 256, block=True)


def p99_beside(quiet: Loaded, flooded: Loaded | None, seed: int) -> dict[str, Any]:
    end = threading.Event()
    thread = None
    if flooded is not None:
        # Two, so that its queue does not run empty between two lots.
        thread = [threading.Thread(target=flood, args=(flooded, end)) for _ in range(2)]
        for one in thread:
            one.start()
    found = describe(quiet.run(poisson(RATE, SECONDS, seed)), SECONDS)
    end.set()
    for one in thread or ():
        one.join()
    return found


def measure() -> dict[str, Any]:
    quiet, flooded = prepare(QUIET), prepare(FLOODED)
    flooded.run([0.0] * 1024, block=True)  # sizes are learned
    alone = [p99_beside(quiet, None, seed) for seed in range(ROUNDS)]
    before = flooded.predict.stats()["batch_seconds"]
    beside = [p99_beside(quiet, flooded, seed) for seed in range(ROUNDS)]
    batch = flooded.predict.stats()["batch_seconds"]
    ran = batch["count"] - before["count"]
    found = {
        "alone": percentile([one["p99"] for one in alone], 0.5),
        "beside": percentile([one["p99"] for one in beside], 0.5),
        "alone_p50": percentile([one["p50"] for one in alone], 0.5),
        "beside_p50": percentile([one["p50"] for one in beside], 0.5),
        "batch": (batch["count"] * batch["mean"] - before["count"] * before["mean"]) / ran,
        "batch_p99": batch["p99"],
    }
    quiet.predict.close()
    flooded.predict.close()
    return found


def figures(found: dict[str, Any]) -> list[Figure]:
    more = (found["beside"] - found["alone"]) / found["batch"]
    return [Figure("flood beside it: p99 is later by so many of its batches", more, 1.0)]


def describe_found(found: dict[str, Any]) -> str:
    ms = {key: f"{value * 1e3:.2f} ms" for key, value in found.items()}
    return (
        f"{QUIET} at {RATE:g} calls/s: p50 {ms['alone_p50']}, p99 {ms['alone']} alone; beside a flood of {FLOODED} "
        f"p50 {ms['beside_p50']}, p99 {ms['beside']}; a batch of the flood takes {ms['batch']} (p99 {ms['batch_p99']})"
    )


def main() -> int:
    found = measure()
    print(describe_found(found))
    return report(figures(found))


if __name__ == "__main__":
    raise SystemExit(main())
