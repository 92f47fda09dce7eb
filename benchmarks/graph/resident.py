"""Memory of a process that serves MiniLM by a graph, calls of all lengths: `python -m benchmarks.graph.resident`.

A fresh process with the model loaded and run once is the start. Four threads map over calls of 1 to 128 tokens, short
ones far more often than long ones; the resident memory is read every 500 results.
"""

import argparse
import itertools
import math
import random
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import models
from benchmarks.harness.contenders import status_mb
from benchmarks.harness.fresh import in_fresh_process
from benchmarks.harness.wanted import Figure, report

CALLS = 10_000
THREADS = 4
EVERY = 500
LONGEST = 128
WANTED_BESIDE_WEIGHTS_MB = 150.0


def call_of(length: int, generator: torch.Generator) -> dict[str, Tensor]:
    ids = torch.randint(1000, 30_000, (1, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def random_calls(count: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Lengths whose logarithms are evenly spread."""
    lengths, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield call_of(round(math.exp(lengths.uniform(0, math.log(LONGEST)))), generator)


def serve(count: int) -> dict[str, Any]:
    _, model = models.load_minilm()
    generator = torch.Generator().manual_seed(0)
    example = [call_of(length, generator) for length in (4, 32, LONGEST)]
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.sum()  # weights are mapped from their file: now all of them are resident
        model(**example[-1])

    import torchpool

    before = status_mb("VmRSS")
    numbers = itertools.count(1)  # next() on it is atomic
    samples: list[tuple[int, float]] = []
    failures: list[BaseException] = []

    def consume(predict: Any, seed: int) -> None:
        try:
            for _ in predict.starmap(random_calls(count // THREADS, seed)):
                if (number := next(numbers)) % EVERY == 0:
                    samples.append((number, status_mb("VmRSS")))
        except BaseException as error:
            failures.append(error)

    with torchpool.wrap(model, backend="graph", example=example) as predict:
        after_wrap = status_mb("VmRSS")
        threads = [threading.Thread(target=consume, args=(predict, seed)) for seed in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = predict.stats()
    if failures:
        raise failures[0]
    mb = [value for _, value in sorted(samples)]
    return {
        "calls": stats["succeeded"],
        "fell_back": stats["fell_back"],
        "weights_mb": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20,
        "before_wrap_mb": before,
        "after_wrap_mb": after_wrap,
        "samples_mb": mb,
        "growth_mb": max([after_wrap, *mb]) - before,
        "second_half_mb": mb[-1] - mb[len(mb) // 2 - 1],
    }


def measure(count: int = CALLS) -> dict[str, Any]:
    return in_fresh_process(serve, count)


def figures(found: dict[str, Any]) -> list[Figure]:
    limit = found["weights_mb"] + WANTED_BESIDE_WEIGHTS_MB
    return [
        Figure("MB that wrap() and the calls add (limit: weights + 150)", found["growth_mb"], limit, form="{:.0f}"),
        Figure("MB that the second half of the calls adds (wanted: flat)", found["second_half_mb"], math.nan),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=CALLS, help=f"at least {2 * EVERY}")
    found = measure(parser.parse_args().calls)
    print(
        f"resident before wrap() {found['before_wrap_mb']:.0f} MB, after it {found['after_wrap_mb']:.0f} MB, then every"
    )
    print(f"{EVERY} calls: {' '.join(f'{mb:.0f}' for mb in found['samples_mb'])}")
    print(f"{found['calls']:,} calls, {found['fell_back']} of them not by the graph")
    return report(figures(found))


if __name__ == "__main__":
    raise SystemExit(main())
