"""What the tests of streams share: predictors without room, and a map as an executor makes it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from support import MARK, Held, row

from torchpool.executor.map_stream import MapStream
from torchpool.predictor.calls import Calls


def mapped(calls: Calls, *iterables: Any, **options: Any) -> tuple[MapStream, Generator[Any, None, None]]:
    """A stream that was started, and its results."""
    stream = MapStream(calls, iterables, **options)
    return stream, stream.results()


def rows(*values: float) -> list[torch.Tensor]:
    return [row(value) for value in values]


def flood(held: Held, value: float = 100.0) -> list[Any]:
    """Occupies the worker and, with a queue of one row, the queue: futures of both calls."""
    return [held.hold(), held.predict.submit(row(value))]


def seen(held: Held) -> list[float]:
    """What the model was run on, but for the call that holds its worker."""
    return [value for value in held.gate.seen if value != MARK]
