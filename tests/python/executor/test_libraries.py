"""Libraries that are given the executor, or find it in place of the standard one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import io
import logging
import logging.handlers
import queue
import threading
from typing import Any

import joblib
import pytest
import torch
import tqdm.contrib.concurrent
from executor_support import Refused, refuse
from support import HANG


@pytest.fixture
def quiet() -> io.StringIO:
    """Takes the progress bars."""
    return io.StringIO()


def test_joblib_may_call_functions_that_use_the_executor(make_executor: Any) -> None:
    executor = make_executor(2)
    work = joblib.delayed(lambda n: executor.submit(abs, -n).result(HANG))
    assert joblib.Parallel(n_jobs=2, prefer="threads")(work(n) for n in range(50)) == list(range(50))


def test_joblib_may_run_in_tasks(make_executor: Any) -> None:
    def task(n: int) -> Any:
        return joblib.Parallel(n_jobs=2, prefer="threads")(joblib.delayed(abs)(-m) for m in range(n))

    assert list(make_executor(2).map(task, range(5))) == [list(range(n)) for n in range(5)]


def test_tqdm_maps_over_the_class(executor_class: Any, quiet: io.StringIO) -> None:
    results = tqdm.contrib.concurrent._executor_map(executor_class, abs, range(-50, 0), max_workers=2, file=quiet)
    assert results == list(range(50, 0, -1))


def test_tqdm_counts_what_is_done(executor_class: Any, quiet: io.StringIO) -> None:
    tqdm.contrib.concurrent._executor_map(executor_class, abs, range(-50, 0), max_workers=2, file=quiet)
    assert "50/50" in quiet.getvalue()


def test_tqdm_maps_over_several_inputs(executor_class: Any, quiet: io.StringIO) -> None:
    results = tqdm.contrib.concurrent._executor_map(executor_class, pow, [1, 2, 3], [2, 2, 2], file=quiet)
    assert results == [1, 4, 9]


def test_tqdm_raises_what_a_task_raises(executor_class: Any, quiet: io.StringIO) -> None:
    with pytest.raises(Refused):
        tqdm.contrib.concurrent._executor_map(executor_class, refuse, range(3), max_workers=2, file=quiet)


@pytest.fixture
def standing_in(executor_class: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The class stands in the place of the standard one; those that are made."""
    made: list[Any] = []

    class Noted(executor_class):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Noted)
    return made


def test_tqdm_finds_the_class_in_place_of_the_standard_one(standing_in: list[Any], quiet: io.StringIO) -> None:
    results = tqdm.contrib.concurrent.thread_map(abs, range(-50, 0), max_workers=3, file=quiet)
    assert results == list(range(50, 0, -1))
    assert [executor._max_workers for executor in standing_in] == [3]


def test_asyncio_finds_the_class_in_place_of_the_standard_one(standing_in: list[Any]) -> None:
    assert asyncio.run(asyncio.to_thread(abs, -3)) == 3
    (executor,) = standing_in
    assert executor._shutdown
    assert all(thread.name.startswith("asyncio_") for thread in executor._threads)


def test_tensors_go_in_and_out(make_executor: Any) -> None:
    rows = list(torch.arange(60.0).reshape(20, 3))
    with torch.no_grad():
        assert [row.sum().item() for row in rows] == [row.item() for row in make_executor(2).map(torch.sum, rows)]


def test_output_that_is_redirected_is_redirected_for_tasks(make_executor: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        make_executor(1).submit(print, "of a task").result(HANG)
    assert output.getvalue() == "of a task\n"


def test_logging_names_the_thread_of_a_task(make_executor: Any) -> None:
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logger = logging.Logger("of the test")
    logger.addHandler(logging.handlers.QueueHandler(records))
    make_executor(1, thread_name_prefix="worker").submit(logger.error, "here").result(HANG)
    assert records.get(timeout=HANG).threadName == "worker_0"


def test_a_traced_thread_traces_tasks(make_executor: Any) -> None:
    seen: set[str] = set()

    def trace(frame: Any, event: str, arg: Any) -> None:
        seen.add(frame.f_code.co_name)

    def traced_task() -> None:
        pass

    before = threading.gettrace()
    threading.settrace(trace)
    try:
        make_executor(1).submit(traced_task).result(HANG)
    finally:
        threading.settrace(before)  # type: ignore[arg-type]
    assert "traced_task" in seen
