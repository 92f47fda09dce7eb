"""`make bench-listings`: loops as their authors write them, before, with one line changed, and at their best.

    python -m benchmarks.listings [--rounds 5] [--only lstm cnn ...]

Each contender is a process of its own, made ready once; their passes are measured in turns. Medians count. Results must
be those of `before`, each.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
from typing import Any

from benchmarks.harness import machine
from benchmarks.harness.standing import Standing
from benchmarks.harness.wanted import Figure, report
from benchmarks.listings import cnn, lstm, pipelines, tokens
from benchmarks.listings.listing import Listing

LISTINGS = (lstm.LISTING, tokens.LISTING, cnn.LISTING, *pipelines.LISTINGS)
ROUNDS = 5


def measure(listing: Listing, rounds: int) -> dict[str, float]:
    """Seconds an item of each contender, the medians. Raises ValueError where results differ from `before`'s."""
    times: dict[str, list[float]] = {name: [] for name in listing.contenders}
    with contextlib.ExitStack() as stack:
        standing = {name: stack.enter_context(Standing(make)) for name, make in listing.contenders.items()}
        wanted: Any = None
        for number in range(rounds + 1):  # the first is not counted
            for name in ("before", *(other for other in standing if other != "before")):
                done = standing[name].run()
                is_loop = not isinstance(done.result, float)
                if wanted is None:
                    wanted = done.result
                elif is_loop and not listing.same(done.result, wanted):
                    raise ValueError(f"{listing.name}, {name}: its results are not before's")
                if number:
                    times[name].append(done.seconds if is_loop else done.result)
    return {name: statistics.median(seconds) / listing.items for name, seconds in times.items()}


def show(listing: Listing, seconds: dict[str, float]) -> None:
    """A line a contender."""
    print(f"\n{listing.title}")
    for name, each in seconds.items():
        print(f"  {name:12}{each * 1e6:10.1f} us an item{seconds['before'] / each:10.2f} x before", flush=True)


def figures(measured: dict[str, dict[str, float]]) -> list[Figure]:
    """What is wanted of them."""

    def gain(listing: str, name: str, over: str = "before") -> float:
        seconds = measured.get(listing)
        return math.nan if seconds is None else seconds[over] / seconds[name]

    best = 6.0 if "avx512f" in machine.describe()["cpu_flags"] else 3.0
    return [
        Figure("LSTM, one line, x before", gain("lstm", "one line"), 1.5, at_least=True, missing="-"),
        Figure("LSTM, at its best, x before", gain("lstm", "best"), best, at_least=True, missing="-"),
        Figure("LSTM, at its best, of a free call", gain("lstm", "best", "free call"), 0.5, True, missing="-"),
        Figure("tokens, at its best, x before", gain("tokens", "best"), 3.0, at_least=True, missing="-"),
        Figure("tokens, at its best, of starmap", gain("tokens", "best", "starmap"), 0.9, True, missing="-"),
        Figure("CNN, at its best, x before", gain("cnn", "best"), 3.0, at_least=True, missing="-"),
        *(
            Figure(f"pipeline {task}, one line, x before", gain(task, "one line"), 1.5, at_least=True, missing="-")
            for task in pipelines.TASKS
        ),
    ]


def main() -> int:
    """Prints all; 1 where less was reached than is wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listings", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    names = [listing.name for listing in LISTINGS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    about = machine.describe()
    flags = " ".join(about["cpu_flags"])
    print(f"{about['cpu']}, {about['cores_usable']} cores, {flags}; load {about['load_at_start']:.1f}")
    measured = {}
    for listing in LISTINGS:
        if listing.name in options.only:
            measured[listing.name] = measure(listing, options.rounds)
            show(listing, measured[listing.name])
    print()
    return report(figures(measured))


if __name__ == "__main__":
    sys.exit(main())
