"""What the tests of predictors' calls share: predictors without room, and what their models have seen."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import torch
from support import HANG, MARK, Held, row


def rows(*values: float) -> list[torch.Tensor]:
    return [row(value) for value in values]


def flood(held: Held, value: float = 100.0) -> list[Any]:
    """Occupies the worker and, with a queue of one row, the queue: futures of both calls."""
    return [held.hold(), held.predict.submit(row(value))]


def seen(held: Held) -> list[float]:
    """What the model was run on, but for the call that holds its worker."""
    return [value for value in held.gate.seen if value != MARK]


def pending(executor: Any) -> int:
    """Calls of predictors that were accepted and are not resolved."""
    count: int = executor.stats()["predictor_calls"]
    return count


def drain(executor: Any) -> None:
    """Waits for them, as shutdown does, of an executor that goes on."""
    executor._predictor_calls.drain()


Outcomes = Callable[[], list[Any]]  # waits for all calls: results, or exceptions in their places


def submitted(executor: Any, calls: Any, values: list[float]) -> Outcomes:
    futures = [executor.submit(calls, row(value)) for value in values]

    def outcome(future: Any) -> Any:
        try:
            return future.result(HANG)
        except (Exception, concurrent.futures.CancelledError) as error:
            return error

    return lambda: [outcome(future) for future in futures]


def in_map(executor: Any, calls: Any, values: list[float]) -> Outcomes:
    results = executor.map(calls, rows(*values))

    def outcomes() -> list[Any]:
        found: list[Any] = []
        try:
            for result in results:
                found.append(result)
        except (Exception, concurrent.futures.CancelledError) as error:
            found += [error] * (len(values) - len(found))  # the standard map ends with the first, too
        return found

    return outcomes
