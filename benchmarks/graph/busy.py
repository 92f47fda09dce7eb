"""One worker beside a busy loop in Python: `python -m benchmarks.graph.busy`.

On two cores a Runtime of one worker leaves a core to the interpreter. MiniLM's short texts come tokenised and 8 in a
call, all submitted at once: what has to hold the interpreter's lock for them, less than a hundred calls a second, is
next to nothing beside their forward pass. Each round has the worker alone, the loop alone and both together, and the
worker beside the same loop in another process, which tells what the machine and not the lock takes. The shares are
medians over the rounds.
"""

import math
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.harness import machine
from benchmarks.harness.fresh import in_fresh_process
from benchmarks.harness.wanted import Figure, report, share
from benchmarks.harness.workloads import BATCH, BATCHES, load

ROUNDS = 5
REPEATS = 2  # of the texts in a pass
WANTED = 0.9


class Counter:
    """Counts in a Python thread, as long as the context is open."""

    def __init__(self) -> None:
        self.count = 0
        self._stop = False
        self._thread = threading.Thread(target=self._loop)

    def _loop(self) -> None:
        while not self._stop:
            self.count += 1

    def __enter__(self) -> "Counter":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop = True
        self._thread.join()


@contextmanager
def counting_elsewhere() -> Iterator[None]:
    """The same loop in another process, which also ends when this one does."""
    code = "import sys, benchmarks.graph.busy as busy\nwith busy.Counter(): print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        yield
        process.stdin.close()


def run_calls(predict: Any, calls: list[dict[str, Any]]) -> float:
    """Seconds that they take, submitted all at once."""
    start = time.perf_counter()
    futures = [predict.submit(**call) for call in calls]
    for future in futures:
        future.result()
    return time.perf_counter() - start


def rounds_of_shares() -> dict[str, Any]:
    import torchpool

    work = load("short" + BATCHES)
    calls = work.items * REPEATS
    texts_per_s, counts_per_s, worker_shares, loop_shares, shares_elsewhere = [], [], [], [], []
    runtime = torchpool.Runtime(workers=1)
    with torchpool.wrap(work.model, backend="graph", runtime=runtime, **work.wrap_options) as predict:
        run_calls(predict, calls)
        for _ in range(ROUNDS):
            alone = run_calls(predict, calls)
            with Counter() as counter:
                before = counter.count
                time.sleep(alone)
                counted_alone = (counter.count - before) / alone
            with Counter() as counter:
                before = counter.count
                together = run_calls(predict, calls)
                counted = (counter.count - before) / together
            with counting_elsewhere():
                shares_elsewhere.append(alone / run_calls(predict, calls))
            texts_per_s.append(len(calls) * BATCH / alone)
            counts_per_s.append(counted_alone)
            worker_shares.append(alone / together)
            loop_shares.append(counted / counted_alone)
        stats = predict.stats()
    runtime.close()
    if stats["fell_back"]:
        raise RuntimeError(f"{stats['fell_back']} calls were not served by the graph")
    return {
        "cores": machine.usable_cores(),
        "texts_per_s_alone": max(texts_per_s),
        "counts_per_s_alone": max(counts_per_s),
        "worker_share": statistics.median(worker_shares),
        "loop_share": statistics.median(loop_shares),
        "worker_share_beside_a_process": statistics.median(shares_elsewhere),
        "worker_shares": worker_shares,
        "loop_shares": loop_shares,
    }


def measure() -> dict[str, Any]:
    return in_fresh_process(rounds_of_shares)


def figures(found: dict[str, Any]) -> list[Figure]:
    return [
        share("a worker beside a busy loop: share of its speed alone", found["worker_share"], WANTED),
        share("the busy loop beside a worker: share of its speed alone", found["loop_share"], WANTED),
        share("a worker beside a loop in another process", found["worker_share_beside_a_process"], math.nan),
    ]


def main() -> int:
    found = measure()
    print(f"alone: {found['texts_per_s_alone']:,.0f} texts/s, {found['counts_per_s_alone'] / 1e6:,.1f} M counts/s")
    return report(figures(found))


if __name__ == "__main__":
    raise SystemExit(main())
