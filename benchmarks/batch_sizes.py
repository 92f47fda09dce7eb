"""The batch size that is learned beside every fixed one: `python -m benchmarks.batch_sizes [lstm cnn documents short]`.

The same engine serves the same calls (tokenised beforehand) as fast as it can, in turns: with what it has learned, and
with at most so many rows a batch for each power of two. The best of those, by its best of several passes, is then run
once more, in pairs with what is learned: the least of many that are as good is the luckiest, and no measure of itself.
"""

import argparse
import statistics
import time
from dataclasses import dataclass

from benchmarks.load import Loaded, prepare
from benchmarks.wanted import Figure, report

WORKLOADS = ("lstm", "cnn", "documents", "short")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PASSES = 3
PAIRS = 7
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
    best: int  # of the fixed sizes
    ratios: list[float]  # learned / best, by pair


def measure(name: str) -> Sizes:
    loaded = prepare(name, queue_size=8192)
    learning = time.perf_counter()
    seconds = one_pass(loaded, 64)
    while time.perf_counter() - learning < LEARN_SECONDS:
        seconds = one_pass(loaded, max(64, int(PASS_SECONDS / seconds)))
    calls = max(128, int(PASS_SECONDS / seconds))

    def with_size(size: int) -> float:
        loaded.predict._core.set_fixed_batches((size, 0.0) if size else None)
        if size == LEARNED:
            one_pass(loaded, max(64, calls // 4))  # the policy is a new one, the costs are known
        return one_pass(loaded, calls)

    best: dict[int, float] = {}
    for _ in range(PASSES):
        for size in [LEARNED, *(size for size in SIZES if size * 4 <= calls)]:
            if best.get(size, 0.0) > 1.5 * min(best.values(), default=float("inf")):
                continue  # far off: not worth another pass
            best[size] = min(best.get(size, float("inf")), with_size(size))
    fixed = min((size for size in best if size), key=lambda size: best[size])
    ratios = [with_size(LEARNED) / with_size(fixed) for _ in range(PAIRS)]
    loaded.predict.close()
    return Sizes(best, fixed, ratios)


def figures(name: str, found: Sizes) -> list[Figure]:
    what = f"{name}: learned size / best fixed one ({found.best} rows), median of pairs"
    return [Figure(what, statistics.median(found.ratios), 1.05)]


def describe_found(name: str, found: Sizes) -> str:
    shown = [f"{size or 'learned'}: {taken * 1e6:.1f}" for size, taken in found.seconds.items()]
    pairs = f"learned / {found.best} in pairs: {min(found.ratios):.2f} .. {max(found.ratios):.2f}"
    return f"{name}, us a call: {', '.join(shown)}; {pairs}"


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
