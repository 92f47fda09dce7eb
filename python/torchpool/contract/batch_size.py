"""Measures how many rows a batch should have at first. Runs once, when a contract is settled."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchpool.contract.contract import Contract

log = logging.getLogger("torchpool")

# A batch should take about this long: short enough for the latency of those behind it, long enough to spread the cost
# of a run. It gives 256 rows of a small LSTM, 32 of a small CNN and 8 texts of MiniLM, each near its best on a CPU.
_TARGET_SECONDS = 0.008
_MIN_ROWS, _MAX_ROWS = 8, 256
# The size that is learned while serving may be this many times larger.
_GROWTH, _MOST_ROWS = 8, 1024
# Where the user allows more rows, batches begin with this many, and grow where larger ones are cheaper.
_FIRST_ROWS = 32
# Rows of the measured run. The few rows of the probe tell mostly the fixed cost of a run: an LSTM's row costs 40 us
# in a batch of 5 and 14 us in one of 32.
_MEASURED_ROWS = 32
_MEASURED_RUNS = 3


def first_and_most(chosen: int, max_batch: int | None) -> tuple[int, int]:
    """Rows of a batch to begin with, and at most: what the measurement chose, or the user's bound."""
    if max_batch is not None:
        return min(_FIRST_ROWS, max_batch), max_batch
    return chosen, max(chosen, min(_GROWTH * chosen, _MOST_ROWS))


def choose_first_batch(
    run: Callable[[list[torch.Tensor]], Any], sample: Sequence[torch.Tensor], contract: Contract
) -> int:
    """Rows of a batch that takes about 8 ms, a power of two from 8 to 256. Runs the model at most three times."""
    seconds = contract.row_seconds or 0.0
    if seconds * _MEASURED_ROWS < _TARGET_SECONDS * 4:
        try:
            seconds = min(seconds or math.inf, _measure(run, sample, contract))
        except Exception:  # so many rows are too much for the model or its memory, which no caller asked for
            log.info("a batch of %d rows cannot be measured", _MEASURED_ROWS, exc_info=True)
            return _MIN_ROWS
    exponent = round(math.log2(max(_TARGET_SECONDS / seconds, 1.0)))
    return int(min(max(2**exponent, _MIN_ROWS), _MAX_ROWS))


def _measure(run: Callable[[list[torch.Tensor]], Any], sample: Sequence[torch.Tensor], contract: Contract) -> float:
    """Seconds a row in a batch of copies of the sample."""
    batch = []
    rows = 1
    for tensor, spec in zip(sample, contract.inputs, strict=True):
        if spec.batch_dim is None:
            batch.append(tensor)
        elif spec.stacked:
            rows = _MEASURED_ROWS
            batch.append(torch.stack([tensor] * rows))
        else:
            copies = max(1, _MEASURED_ROWS // tensor.shape[spec.batch_dim])
            rows = copies * tensor.shape[spec.batch_dim]
            batch.append(torch.cat([tensor] * copies, spec.batch_dim))
    best = math.inf
    for _ in range(_MEASURED_RUNS):  # the best: everything else the machine did meanwhile only adds
        start = time.perf_counter()
        run(batch)
        best = min(best, time.perf_counter() - start)
    return best / rows
