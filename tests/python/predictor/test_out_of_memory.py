"""A model that cannot hold so many rows: batches are halved, the bound is kept, and only a single row's call fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from bad_models import together
from support import HANG, MarkerModule, assert_all_close, assert_close, build, draws, eager, row, run_threads
from torch import nn

import torchpool

# What torch's allocator on the CPU says.
ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 B"
)
HUNGRY = 99.0  # a row that starts with it fits no memory

ERRORS: dict[str, Callable[[], Exception]] = {
    "OutOfMemoryError": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "MemoryError": MemoryError,
    "the allocator's": lambda: RuntimeError(ALLOCATOR),
}


class Memory:
    """How many rows it holds, and the rows of each run that came to it."""

    def __init__(self) -> None:
        self.holds = 1 << 30
        self.rows: list[int] = []
        self.failures = 0
        self.error: Callable[[], Exception] = ERRORS["OutOfMemoryError"]

    def use(self, x: torch.Tensor) -> None:
        self.rows.append(len(x))
        if len(x) > self.holds or bool((x[:, 0] == HUNGRY).any()):
            self.failures += 1
            raise self.error()


class Limited(nn.Module):
    """A linear layer, 4 to 3, in that memory."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.inner = build(MarkerModule)
        self.use = memory.use  # a function: probing puts what a module holds back

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.use(x)
        return self.inner(x)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture(params=ERRORS)
def error(request: pytest.FixtureRequest, memory: Memory) -> str:
    """Each of the exceptions that say that there is no memory."""
    memory.error = ERRORS[request.param]
    return str(request.param)


@pytest.fixture
def wrapped(runtime: torchpool.Runtime, memory: Memory) -> Iterator[Callable[..., torchpool.Predictor]]:
    """Makes predictors that learn while there is memory enough, and have little of it from then on."""

    def make(holds: int, **options: Any) -> torchpool.Predictor:
        options = {"backend": "python", "max_batch": 64, "runtime": runtime, **options}
        predict = torchpool.wrap(Limited(memory).eval(), example=row(), **options)
        memory.rows.clear()
        memory.holds = holds
        return predict

    yield make


def assert_right(predict: torchpool.Predictor, runtime: torchpool.Runtime, count: int, *, rows: int = 1) -> None:
    """So many calls that wait together give what the layer itself gives."""
    calls = [(row(n, rows=rows),) for n in range(count)]
    assert_all_close(together(predict, runtime, calls), (eager(predict.model.inner, x) for (x,) in calls))


@pytest.mark.parametrize("holds", [1, 3, 5, 8])
def test_every_call_is_answered_by_batches_that_fit(
    wrapped: Any, runtime: torchpool.Runtime, memory: Memory, error: str, holds: int
) -> None:
    predict = wrapped(holds)
    assert_right(predict, runtime, 40)
    assert sum(rows for rows in memory.rows if rows <= holds) == 40
    assert max(memory.rows) > holds, "nothing was ever too large"
    stats = predict.stats()
    assert stats["out_of_memory"] == sum(rows > holds for rows in memory.rows)
    assert stats["accepted"] == stats["resolved"] == stats["succeeded"] == 40


@pytest.mark.parametrize("holds", [1, 3, 5, 8])
def test_the_bound_is_kept(wrapped: Any, runtime: torchpool.Runtime, memory: Memory, error: str, holds: int) -> None:
    predict = wrapped(holds)
    assert_right(predict, runtime, 40)
    failures = predict.stats()["out_of_memory"]
    memory.rows.clear()
    for _ in range(5):
        assert_right(predict, runtime, 50)
    assert_all_close(predict.map(map(row, range(90))), (eager(predict.model.inner, row(n)) for n in range(90)))
    assert max(memory.rows) <= holds
    assert predict.stats()["out_of_memory"] == failures


def test_a_batch_is_halved_and_not_run_one_by_one(wrapped: Any, runtime: torchpool.Runtime, memory: Memory) -> None:
    predict = wrapped(8, max_batch=32)
    assert_right(predict, runtime, 32)
    assert memory.rows == [32, 16, 8, 8, 16, 8, 8]
    assert predict.stats()["out_of_memory"] == 3


def test_a_second_failure_lowers_the_bound_again(wrapped: Any, runtime: torchpool.Runtime, memory: Memory) -> None:
    predict = wrapped(16)
    assert_right(predict, runtime, 40)
    memory.holds = 2  # somebody else took it
    assert_right(predict, runtime, 40)
    memory.rows.clear()
    assert_right(predict, runtime, 40)
    assert max(memory.rows) <= 2


def test_other_errors_set_no_bound(wrapped: Any, runtime: torchpool.Runtime, memory: Memory) -> None:
    memory.error = lambda: RuntimeError("memory, as such, is not what is wrong")
    predict = wrapped(8, max_batch=32)
    assert_right(predict, runtime, 32)
    assert predict.stats()["out_of_memory"] == 0
    memory.holds = 1 << 30
    memory.rows.clear()
    assert_right(predict, runtime, 32)
    assert memory.rows == [32]


@pytest.mark.parametrize("rows", [2, 3])
def test_calls_of_several_rows_are_parted_where_one_alone_is_too_large(
    wrapped: Any, runtime: torchpool.Runtime, memory: Memory, rows: int
) -> None:
    predict = wrapped(1)
    assert_right(predict, runtime, 10, rows=rows)
    memory.rows.clear()
    assert_right(predict, runtime, 10, rows=rows)
    assert set(memory.rows) == {1}
    assert predict.stats()["failed"] == 0


def test_a_single_large_call_runs_in_parts(wrapped: Any, memory: Memory) -> None:
    predict = wrapped(4)
    x = torch.cat(draws(50, 1, 4))
    for _ in range(2):
        assert_close(predict.submit(x).result(HANG), eager(predict.model.inner, x))
    assert predict.stats()["succeeded"] == 2


def test_a_row_that_fits_no_memory_fails_alone(
    wrapped: Any, runtime: torchpool.Runtime, memory: Memory, error: str
) -> None:
    predict = wrapped(1 << 30)
    values = [HUNGRY if n in (3, 11) else n for n in range(20)]
    results = together(predict, runtime, [(row(value),) for value in values])
    for value, result in zip(values, results, strict=True):
        if value == HUNGRY:
            assert type(result) is type(memory.error())
            assert str(result) == str(memory.error())
        else:
            assert_close(result, eager(predict.model.inner, row(value)))
    stats = predict.stats()
    assert (stats["succeeded"], stats["failed"]) == (18, 2)
    assert stats["out_of_memory"] == memory.failures > 2


@pytest.mark.parametrize("way", ["call", "submit", "map"])
def test_where_not_even_one_row_fits_each_caller_is_told(wrapped: Any, memory: Memory, error: str, way: str) -> None:
    predict = wrapped(0)
    with pytest.raises(type(memory.error())):
        {
            "call": lambda: predict(row(1)),
            "submit": lambda: predict.submit(row(1)).result(HANG),
            "map": lambda: next(predict.map([row(1), row(2)])),
        }[way]()
    memory.holds = 1 << 30
    assert_close(predict.submit(row(1)).result(HANG), eager(predict.model.inner, row(1)))
    predict.close()
    stats = predict.stats()
    assert stats["accepted"] == stats["resolved"]


@pytest.mark.parametrize("example", [row(0), None], ids=["example", "first call"])
def test_a_model_that_never_held_the_batch_by_which_it_is_measured(
    runtime: torchpool.Runtime, memory: Memory, example: torch.Tensor | None
) -> None:
    """Without max_batch the first size is measured, with more rows than any caller has asked for."""
    memory.holds = 12
    predict = torchpool.wrap(Limited(memory).eval(), example=example, backend="python", runtime=runtime)
    assert_close(predict(row(1)), eager(predict.model.inner, row(1)))
    assert_right(predict, runtime, 40)


def test_many_threads_in_little_memory_all_get_their_results(wrapped: Any, memory: Memory) -> None:
    predict = wrapped(2)
    results = run_threads(8, lambda number: [predict(row(100 * number + n)) for n in range(30)])
    for number, of_thread in enumerate(results):
        assert_all_close(of_thread, (eager(predict.model.inner, row(100 * number + n)) for n in range(30)))
    stats = predict.stats()
    assert stats["accepted"] == stats["resolved"] == stats["succeeded"] == 240
