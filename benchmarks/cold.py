"""Models from cold: `python -m benchmarks.cold`.

Each of twelve models of the zoo of tests is wrapped and called at once, 64 calls from a pool of 4 threads, beside the
same pool with the plain model. Each run is a process of its own, since what torch sets up at first would help the next;
the two alternate, and the sum of the medians counts.
"""

import concurrent.futures
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.fresh import in_fresh_process
from benchmarks.harness.wanted import Figure, report

WANTED = 1.3
ROUNDS = 3
CALLS, THREADS = 64, 4
NAMES = (
    "bert", "albert", "t5 encoder", "deberta-v2", "gpt2", "qwen2-moe", "vit for classes", "resnet",
    "convnext", "hubert", "lstm for classes", "transformer encoder",
)  # fmt: skip


def _entry(name: str) -> Any:
    tests = Path(__file__).resolve().parent.parent / "tests"
    sys.path[:0] = [str(tests / "python"), str(tests / "zoo")]
    import zoo_media
    import zoo_python
    import zoo_text
    import zoo_torch

    models = [*zoo_text.MODELS, *zoo_media.MODELS, *zoo_torch.MODELS, *zoo_python.MODELS]
    found = [entry for entry in models if entry.name == name]
    if not found:
        raise ValueError(f"no model {name!r} in the zoo; there are {[entry.name for entry in models]}")
    return found[0]


def seconds(name: str, wrapped: bool) -> float:
    """From before wrap() to the last result of all calls."""
    import torchpool
    from torchpool.call.arguments import as_call

    entry = _entry(name)
    model, calls = entry.build(), [as_call(call) for call in entry.calls()]
    work = [calls[i % len(calls)] for i in range(CALLS)]
    with torch.no_grad():
        start = time.perf_counter()
        predict = torchpool.wrap(model, pad=entry.pad) if wrapped else model

        def run(call: Any) -> Any:
            with torch.no_grad():
                return predict(*call[0], **call[1])

        with concurrent.futures.ThreadPoolExecutor(THREADS) as executor:
            list(executor.map(run, work))
        return time.perf_counter() - start


def main() -> int:
    """Prints a line a model, and the figure."""
    total = {True: 0.0, False: 0.0}
    print(f"{'model':28}{'plain':>9}{'torchpool':>11}{'ratio':>8}")
    for name in NAMES:
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(ROUNDS):
            for wrapped in (False, True):
                times[wrapped].append(in_fresh_process(seconds, name, wrapped))
        plain, ours = statistics.median(times[False]), statistics.median(times[True])
        total[False] += plain
        total[True] += ours
        print(f"{name:28}{plain:8.2f}s{ours:10.2f}s{ours / plain:8.2f}", flush=True)
    return report([Figure("twelve models from cold, of the plain models' time", total[True] / total[False], WANTED)])


if __name__ == "__main__":
    sys.exit(main())
