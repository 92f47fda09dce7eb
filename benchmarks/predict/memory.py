"""Peak memory of a map over a million lazily made LSTM samples: `python -m benchmarks.predict.memory [COUNT]`."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import torchpool
from benchmarks.harness import data, models
from benchmarks.harness.contenders import status_mb

LIMIT_MB = 300.0


def lazily(count: int) -> Iterator[Tensor]:
    """Fresh tensors, made when asked for; together they would take 2 kB each."""
    samples = data.lstm_samples(997)
    return (samples[i % len(samples)].clone() for i in range(count))


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with torchpool.wrap(models.build(models.LSTMClassifier), example=torch.zeros(1, 50, 10)) as predict:
        for _ in predict.map(lazily(2_000)):  # starts the workers and fills torch's caches
            pass
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak starts anew from here
        start_mb, started = status_mb("VmRSS"), time.perf_counter()
        seen = sum(1 for _ in predict.map(lazily(count)))
        elapsed = time.perf_counter() - started
    growth = status_mb("VmHWM") - start_mb
    print(f"{seen:,} items in {elapsed:.1f} s ({elapsed / count * 1e6:.1f} us each)")
    print(f"resident at the start {start_mb:.0f} MB, peak growth {growth:.0f} MB (limit {LIMIT_MB:.0f})")
    return 0 if seen == count and growth <= LIMIT_MB else 1


if __name__ == "__main__":
    raise SystemExit(main())
