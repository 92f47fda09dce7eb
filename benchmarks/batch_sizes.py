"""The batch size that is learned beside every fixed one: `python -m benchmarks.batch_sizes [lstm cnn documents short]`.

The same engine serves the same calls (tokenised beforehand) as fast as it can, in turns: with what it has learned, and
with at most so many rows a batch for each power of two. Best of several passes.
"""

import argparse
import time

from benchmarks.load import Loaded, prepare
from benchmarks.wanted import Figure, report

WORKLOADS = ("lstm", "cnn", "documents", "short")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PASSES = 4
LEARN_SECONDS = 4.0
PASS_SECONDS = 0.6
LEARNED = 0  # in place of a size


def one_pass(loaded: Loaded, calls: int) -> float:
    """Seconds a call, with the queue never empty."""
    found = loaded.run([0.0] * calls, block=True)
    return float(found["seconds"]) / calls


def measure(name: str) -> dict[int, float]:
    """Seconds a call by size; 0 stands for what is learned."""
    loaded = prepare(name, queue_size=8192)
    core = loaded.predict._core
    learning = time.perf_counter()
    seconds = one_pass(loaded, 64)
    while time.perf_counter() - learning < LEARN_SECONDS:
        seconds = one_pass(loaded, max(64, int(PASS_SECONDS / seconds)))
    calls = max(128, int(PASS_SECONDS / seconds))
    best: dict[int, float] = {}
    sizes = [size for size in SIZES if size * 4 <= calls]
    for _ in range(PASSES):
        for size in [LEARNED, *sizes]:
            if best.get(size, 0.0) > 1.5 * min(best.values(), default=float("inf")):
                continue  # far off: not worth another pass
            core.set_fixed_batches((size, 0.0) if size else None)
            if size == LEARNED:
                one_pass(loaded, max(64, calls // 4))  # the policy is a new one, the costs are known
            taken = one_pass(loaded, calls)
            best[size] = min(best.get(size, float("inf")), taken)
    loaded.predict.close()
    return best


def figures(name: str, found: dict[int, float]) -> list[Figure]:
    fixed = {size: taken for size, taken in found.items() if size}
    best = min(fixed, key=lambda size: fixed[size])
    ratio = found[LEARNED] / fixed[best]
    return [Figure(f"{name}: learned size / best fixed one ({best} rows)", ratio, 1.05)]


def describe_found(name: str, found: dict[int, float]) -> str:
    shown = [f"{size or 'learned'}: {taken * 1e6:.1f}" for size, taken in found.items()]
    return f"{name}, us a call: {', '.join(shown)}"


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
