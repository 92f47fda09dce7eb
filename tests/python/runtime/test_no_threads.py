"""Where the process may start no more threads, the call that needs one fails, and the next ones are served again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from no_threads import no_threads
from support import HANG, MarkerModule, assert_close, build, eager, row

import torchpool
from torchpool.call import futures
from torchpool.executor.timer import Timer
from torchpool.predictor import graphs

LIMIT = "thread"  # both libraries' messages have it


@pytest.fixture
def predict(runtime: torchpool.Runtime) -> torchpool.Predictor:
    """Whose workers run, and nothing else: neither resolvers nor the timer of deadlines."""
    return torchpool.wrap(build(MarkerModule), example=row(), backend="python", prove="trust", runtime=runtime)


def awaited(predict: torchpool.Predictor) -> Any:
    async def work() -> Any:
        return await predict.acall(row(1))

    return asyncio.run(work())


NEEDS: dict[str, Callable[[torchpool.Predictor], Any]] = {
    "a future's resolver": lambda predict: predict.submit(row(1)).result(HANG),
    "an event loop's resolver": awaited,
    "the timer, in a call": lambda predict: predict.options(deadline=HANG)(row(1)),
    "the timer, in a future": lambda predict: predict.options(deadline=HANG).submit(row(1)).result(HANG),
}


@pytest.mark.parametrize("need", NEEDS)
def test_a_call_whose_thread_cannot_start_fails_and_leaves_nothing(predict: torchpool.Predictor, need: str) -> None:
    before = predict.stats()["accepted"]
    with no_threads(), pytest.raises(RuntimeError, match=LIMIT):
        NEEDS[need](predict)
    stats = predict.stats()
    assert stats["accepted"] == before, "a call that failed was accepted all the same"
    assert stats["waiting_rows"] == stats["running_batches"] == 0
    assert_close(NEEDS[need](predict), eager(predict.model, row(1)))


def test_a_call_that_needs_no_thread_is_served(predict: torchpool.Predictor) -> None:
    with no_threads():
        assert_close(predict(row(1)), eager(predict.model, row(1)))


def test_a_model_cannot_be_wrapped_and_can_afterwards() -> None:
    runtime, model = torchpool.Runtime(1), build(MarkerModule)
    with no_threads(), pytest.raises(RuntimeError, match=LIMIT):
        torchpool.wrap(model, runtime=runtime)
    predict = torchpool.wrap(model, runtime=runtime)  # kept: a dropped one fails what waits
    assert_close(predict.submit(row(1)).result(HANG), eager(model, row(1)))
    runtime.close()


def test_callbacks_run_all_the_same(monkeypatch: pytest.MonkeyPatch, predict: torchpool.Predictor) -> None:
    monkeypatch.setattr(futures, "_callbacks", futures._Callbacks())
    future = predict.submit(row(1))
    called: list[Any] = []
    with no_threads():
        futures.call_back_later(future, [called.append])
    assert called == [future]
    ran = threading.Event()
    futures.call_back_later(future, [lambda _: ran.set()])  # by a thread of its own again
    assert ran.wait(HANG)


def test_a_timer_takes_no_entry_that_it_could_not_call_and_goes_on_later() -> None:
    timer, called = Timer(), threading.Event()
    with no_threads(), pytest.raises(RuntimeError, match=LIMIT):
        timer.call_at(time.monotonic(), called.set)
    assert timer.entries == 0
    timer.call_at(time.monotonic(), called.set)
    assert called.wait(HANG)
    timer.close()


def test_a_task_with_a_deadline_is_refused_before_it_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchpool.executor.timer._default", None)
    with torchpool.ThreadPoolExecutor(1) as executor:
        assert executor.submit(int, "7").result(HANG) == 7
        ran: list[int] = []
        with no_threads(), pytest.raises(RuntimeError, match=LIMIT):
            executor.options(deadline=HANG).submit(ran.append, 1)
        assert executor.submit(int, "8").result(HANG) == 8
        assert not ran
        assert executor.options(deadline=HANG).submit(int, "9").result(HANG) == 9


def test_an_executor_whose_deadline_could_not_be_watched_watches_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchpool.executor.timer._default", None)
    gate = threading.Event()
    with torchpool.ThreadPoolExecutor(1) as executor:
        executor.submit(gate.wait, HANG)
        with no_threads(), pytest.raises(RuntimeError, match=LIMIT):
            executor._expiry.at(time.monotonic())
        late = executor.options(deadline=0.001).submit(int)
        assert isinstance(late.exception(HANG), TimeoutError)
        gate.set()


@pytest.mark.graphs
def test_a_capture_that_finds_no_thread_says_so_and_later_ones_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_capturer", graphs.Capturer())
    predict = torchpool.wrap(build(lambda: torch.nn.Linear(4, 3)))
    with no_threads():
        predict(row(1))
        assert predict.ready(0)
        assert "no thread" in str(predict.explain())
    predict.refresh()
    predict(row(1))
    assert predict.ready(HANG)
    assert predict.explain().to_dict()["contracts"]
    assert "no thread" not in str(predict.explain())
