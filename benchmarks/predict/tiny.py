"""What a lone call of a Linear(10, 3) costs, and what threads make of it: `python -m benchmarks.predict.tiny`.

Plain and wrapped blocks alternate in one process, so that a change of the machine's speed meets both. With several
threads each makes its calls, all start together, and the time until the last has ended counts.
"""

import statistics
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import torchpool
from benchmarks.harness.wanted import Figure, report

BLOCKS = 40
CALLS = 500
THREADS = (1, 2, 4)
LIMIT_US = 5.0

Call = Callable[[Tensor], Tensor]
Times = dict[int, tuple[list[float], list[float]]]


def block_us(call: Call, x: Tensor) -> float:
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        call(x)
    return (time.perf_counter_ns() - start) / CALLS / 1e3


def threads_us(call: Call, x: Tensor, threads: int) -> float:
    """Microseconds a call of all threads together."""
    if threads == 1:
        return block_us(call, x)
    line = threading.Barrier(threads + 1)

    def work() -> None:
        with torch.no_grad():
            line.wait()
            block_us(call, x)

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    line.wait()
    start = time.perf_counter_ns()
    for thread in running:
        thread.join()
    return (time.perf_counter_ns() - start) / (threads * CALLS) / 1e3


@torch.no_grad()
def measure_backend(backend: str) -> Times:
    """Plain and wrapped times by number of threads."""
    model = nn.Linear(10, 3).eval()
    x = torch.randn(1, 10)
    found: Times = {threads: ([], []) for threads in THREADS}
    with torchpool.wrap(model, example=x, backend=backend) as predict:  # type: ignore[arg-type]
        predict.ready()
        block_us(model, x), block_us(predict, x)
        for _ in range(BLOCKS):
            for threads, (plain, wrapped) in found.items():
                plain.append(threads_us(model, x, threads))
                wrapped.append(threads_us(predict, x, threads))
    return found


def measure() -> dict[str, Times]:
    """By backend."""
    return {backend: measure_backend(backend) for backend in ("auto", "python")}


def describe_found(found: dict[str, Times]) -> str:
    lines = []
    for backend, measured in found.items():
        lines.append(f"backend {backend!r}, us per call {'best':>14}{'median':>8}")
        for threads, (plain, wrapped) in measured.items():
            for name, times in (("plain", plain), ("wrapped", wrapped)):
                lines.append(f"  {threads} thread(s), {name:10}{min(times):15.2f}{statistics.median(times):8.2f}")
    return "\n".join(lines)


def figures(found: dict[str, Times]) -> list[Figure]:
    made = []
    for threads, (plain, wrapped) in found["auto"].items():
        if threads == 1:
            extra = statistics.median(ours - theirs for ours, theirs in zip(wrapped, plain, strict=True))
            made.append(Figure("Linear(10, 3), one thread: us more than plain", extra, LIMIT_US))
        else:
            ratio = statistics.median(ours / theirs for ours, theirs in zip(wrapped, plain, strict=True))
            wanted = 1.0 if threads == 2 else float("nan")
            made.append(Figure(f"Linear(10, 3), {threads} threads: wrapped / plain", ratio, wanted))
    return made


def main() -> int:
    found = measure()
    print(describe_found(found))
    return report(figures(found))


if __name__ == "__main__":
    raise SystemExit(main())
