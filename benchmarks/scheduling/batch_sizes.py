"""The learned batch size beside fixed ones: `python -m benchmarks.scheduling.batch_sizes [lstm cnn documents short]`.

The same engine serves the same calls (tokenised beforehand) as fast as it can, in turns: with what it has learned, and
with at most so many rows a batch for each power of two. The least of several passes tells which three fixed sizes are
the best. As the least of many noisy times is too low to be a measure of itself, those three and what is learned run
again, in rounds that begin with another one each; what is learned is held against the worst of its three comparisons.
"""

import argparse
import statistics
import time
from dataclasses import dataclass

import torchpool_lab

from benchmarks.harness.wanted import Figure, report
from benchmarks.scheduling.load import Loaded, prepare

WORKLOADS = ("lstm", "cnn", "documents", "short")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PASSES = 4
FINALISTS = 3
ROUNDS = 8
LEARN_SECONDS = 4.0
PASS_SECONDS = 0.6
LEARNED = 0  # in place of a size


def one_pass(loaded: Loaded, calls: int) -> float:
    """Seconds a call, with the queue never empty."""
    found = loaded.run([0.0] * calls, block=True)
    return float(found["seconds"]) / calls


@dataclass
class Sizes:
    seconds: dict[int, float]  # a call, by size; 0 stands for what is learned
    ratios: dict[int, list[float]]  # learned / fixed, by size and round, of the best sizes


def measure(name: str) -> Sizes:
    loaded = prepare(name, queue_size=8192)
    learning = time.perf_counter()
    seconds = one_pass(loaded, 64)
    while time.perf_counter() - learning < LEARN_SECONDS:
        seconds = one_pass(loaded, max(64, int(PASS_SECONDS / seconds)))
    calls = max(128, int(PASS_SECONDS / seconds))

    def with_size(size: int) -> float:
        torchpool_lab.set_fixed_batches(loaded.predict._core, (size, 0.0) if size else None)
        one_pass(loaded, max(64, calls // 4))  # what is learned begins with a new policy, and known costs
        return one_pass(loaded, calls)

    best: dict[int, float] = {}
    for _ in range(PASSES):
        for size in [LEARNED, *(size for size in SIZES if size * 4 <= calls)]:
            if best.get(size, 0.0) > 1.5 * min(best.values(), default=float("inf")):
                continue  # far off: not worth another pass
            best[size] = min(best.get(size, float("inf")), with_size(size))
    finalists = sorted((size for size in best if size), key=lambda size: best[size])[:FINALISTS]
    ratios: dict[int, list[float]] = {size: [] for size in finalists}
    running = [LEARNED, *finalists]
    for _ in range(ROUNDS):
        taken = {size: with_size(size) for size in running}
        for size in finalists:
            ratios[size].append(taken[LEARNED] / taken[size])
        running.append(running.pop(0))
    loaded.predict.close()
    return Sizes(best, ratios)


def figures(name: str, found: Sizes) -> list[Figure]:
    medians = {size: statistics.median(ratios) for size, ratios in found.ratios.items()}
    worst = max(medians, key=lambda size: medians[size])
    return [Figure(f"{name}: learned size / best fixed one ({worst} rows)", medians[worst], 1.05)]


def describe_found(name: str, found: Sizes) -> str:
    shown = [f"{size or 'learned'}: {taken * 1e6:.1f}" for size, taken in found.seconds.items()]
    again = [
        f"{size}: {statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
        for size, ratios in found.ratios.items()
    ]
    return f"{name}, us a call: {', '.join(shown)}; learned / fixed in rounds: {', '.join(again)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    made: list[Figure] = []
    for name in parser.parse_args().workloads:
        found = measure(name)
        print(describe_found(name, found), flush=True)
        made += figures(name, found)
    return report(made)


if __name__ == "__main__":
    raise SystemExit(main())
