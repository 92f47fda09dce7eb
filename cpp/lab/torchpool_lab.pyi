"""Measures torchpool's scheduling: on simulated time, and under a scheduled load."""

from typing import Any

from torchpool._core import MeasuredPredictor

def simulate(
    workers: int,
    cores_per_batch: int,
    predictors: list[dict[str, Any]],
    calls: list[tuple[float, int, int, int, int, float]],
) -> dict[str, Any]: ...
def open_loop(
    predictor: MeasuredPredictor,
    calls: list[tuple[tuple[Any, ...], dict[str, Any] | None]],
    arrivals: list[float],
    *,
    deadline: float | None = None,
    priority: int = 0,
    block: bool = False,
) -> dict[str, Any]: ...
def set_fixed_batches(predictor: MeasuredPredictor, rows_and_delay: tuple[int, float] | None) -> None: ...
def fma_peak(isa: str) -> float: ...
