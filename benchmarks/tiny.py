"""What a lone call costs beyond the model, a Linear(10, 3): `python -m benchmarks.tiny`.

Plain and wrapped blocks alternate in one process, so that a change of the machine's speed meets both.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import torchpool

BLOCKS = 40
CALLS = 500
LIMIT_US = 30.0


def block_us(call: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        call(x)
    return (time.perf_counter_ns() - start) / CALLS / 1e3


@torch.no_grad()
def main() -> int:
    model = nn.Linear(10, 3).eval()
    x = torch.randn(1, 10)
    plain, wrapped = [], []
    with torchpool.wrap(model, example=x) as predict:
        block_us(model, x), block_us(predict, x)
        for _ in range(BLOCKS):
            plain.append(block_us(model, x))
            wrapped.append(block_us(predict, x))
    extra = statistics.median(ours - theirs for ours, theirs in zip(wrapped, plain, strict=True))
    print(f"{'us per call':14}{'best':>8}{'median':>8}")
    for name, times in (("plain", plain), ("wrapped", wrapped)):
        print(f"{name:14}{min(times):8.2f}{statistics.median(times):8.2f}")
    print(f"wrapped - plain, median of {BLOCKS} pairs: {extra:.2f} us (limit {LIMIT_US:.0f})")
    return 0 if extra <= LIMIT_US else 1


if __name__ == "__main__":
    raise SystemExit(main())
