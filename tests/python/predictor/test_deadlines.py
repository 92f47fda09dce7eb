"""options(priority, deadline): who goes first, and who is told that it took too long."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any

import pytest
import torch
from support import HANG, MARK, MarkerModule, assert_all_close, assert_close, build, eager, row, run_threads

import torchpool

SOON = 0.02  # seconds; a deadline that is to pass


@pytest.fixture
def predict() -> torchpool.Predictor:
    return torchpool.wrap(build(MarkerModule), example=row())


def test_a_view_gives_the_same_results_in_every_way(predict: torchpool.Predictor) -> None:
    view = predict.options(priority=3, deadline=HANG)
    expected = eager(predict.model, row(1))
    assert_close(view(row(1)), expected)
    assert_close(view.submit(row(1)).result(), expected)
    assert_close(list(view.map([row(1)])), [expected])
    assert_close(list(view.starmap([(row(1),)])), [expected])
    assert_close(asyncio.run(view.acall(row(1))), expected)
    assert predict.stats()["accepted"] == 5


def test_a_view_says_what_it_is(predict: torchpool.Predictor) -> None:
    assert "priority=3, deadline=1.5" in repr(predict.options(priority=3, deadline=1.5))


@pytest.mark.parametrize("way", ["call", "submit", "map", "acall"])
def test_a_queued_call_ends_at_its_deadline_while_the_worker_is_held(hold: Any, way: str) -> None:
    held = hold()
    held.hold()
    view = held.predict.options(deadline=SOON)
    with pytest.raises(TimeoutError, match="the deadline of the call passed"):
        {
            "call": lambda: view(row(1)),
            "submit": lambda: view.submit(row(1)).result(HANG),
            "map": lambda: next(view.map([row(1)])),
            "acall": lambda: asyncio.run(view.acall(row(1))),
        }[way]()
    assert not held.gate._opened.is_set()


def test_an_expired_call_never_reaches_the_model(hold: Any) -> None:
    held = hold()
    held.hold()
    late = [held.predict.options(deadline=SOON).submit(row(n)) for n in range(1, 6)]
    kept = held.predict.options(deadline=HANG).submit(row(9))
    concurrent.futures.wait(late, HANG)
    held.gate.open()
    assert_close(kept.result(HANG), eager(held.model, row(9)))
    assert held.gate.seen[:2] == [MARK, 9]
    assert held.predict.stats()["expired"] == 5


def test_an_expired_call_frees_its_place_in_the_queue(hold: Any) -> None:
    held = hold(queue_size=1, overflow="reject")
    held.hold()
    late = held.predict.options(deadline=SOON).submit(row(1))
    concurrent.futures.wait([late], HANG)
    kept = held.predict.submit(row(2))
    held.gate.open()
    assert kept.result(HANG).shape == (1, 3)


def test_a_running_call_is_told_at_its_deadline(hold: Any) -> None:
    held = hold()
    view = held.predict.options(deadline=SOON)
    future = view.submit(row(MARK))
    with pytest.raises(TimeoutError, match="deadline"):
        future.result(HANG)
    with pytest.raises(TimeoutError, match="deadline"):
        view(row(1))
    held.gate.open()
    held.predict.close()
    assert isinstance(future.exception(), TimeoutError)  # the result that came too late is dropped
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]
    assert stats["expired"] == 2


def test_an_expired_call_hurts_no_other_of_its_batch(hold: Any) -> None:
    held = hold()
    first = held.hold()
    kept = held.predict.submit(row(1))
    late = held.predict.options(deadline=SOON).submit(row(2))
    kept_too = held.predict.submit(row(3))
    concurrent.futures.wait([late], HANG)
    held.gate.open()
    assert_all_close(
        [future.result(HANG) for future in (first, kept, kept_too)],
        [eager(held.model, row(n)) for n in (MARK, 1, 3)],
    )


def test_a_call_that_waits_for_room_ends_at_its_deadline(hold: Any) -> None:
    held = hold(queue_size=1)
    held.hold()
    waiting = held.predict.submit(row(1))
    with pytest.raises(TimeoutError, match="before it was queued"):
        held.predict.options(deadline=SOON)(row(2))
    with pytest.raises(TimeoutError, match="before it was queued"):
        held.predict.options(deadline=SOON).submit(row(3))
    held.gate.open()
    waiting.result(HANG)
    held.predict.close()
    assert held.gate.seen == [MARK, 1]


def test_callbacks_of_an_expired_call_run(hold: Any) -> None:
    held = hold()
    held.hold()
    future = held.predict.options(deadline=SOON).submit(row(1))
    ran = threading.Event()
    future.add_done_callback(lambda done: ran.set())
    assert ran.wait(HANG)
    assert isinstance(future.exception(), TimeoutError)
    assert not future.cancel()


def test_many_deadlines_from_many_threads_are_all_kept(hold: Any) -> None:
    held = hold()
    held.hold()

    def work(number: int) -> None:
        for n in range(5):
            with pytest.raises(TimeoutError):
                held.predict.options(deadline=SOON / (n + 1))(row(n))

    run_threads(8, work)
    held.gate.open()
    held.predict.close()
    stats = held.predict.stats()
    assert stats["expired"] == 40
    assert stats["waiting_rows"] == 0
    assert held.gate.seen == [MARK]


def test_a_deadline_that_is_met_changes_nothing(hold: Any) -> None:
    held = hold()
    held.hold()
    futures = [held.predict.options(deadline=HANG).submit(row(n)) for n in range(20)]
    held.gate.open()
    assert_all_close((future.result(HANG) for future in futures), (eager(held.model, row(n)) for n in range(20)))
    assert held.predict.stats()["expired"] == 0


@pytest.mark.parametrize("batch", [None, False], ids=["merging", "alone"])
def test_higher_priorities_go_first(hold: Any, batch: Any) -> None:
    held = hold(batch=batch, max_batch=1)
    held.hold()
    priorities = [0, 5, -3, 5, 100, 0, -3]
    futures = [held.predict.options(priority=p).submit(row(n)) for n, p in enumerate(priorities)]
    held.gate.open()
    concurrent.futures.wait(futures, HANG)
    by_priority = sorted(range(len(priorities)), key=lambda n: -priorities[n])  # stable: then by arrival
    assert held.gate.seen == [MARK, *by_priority]


def test_at_one_priority_the_earliest_deadline_goes_first(hold: Any) -> None:
    held = hold(max_batch=1)
    held.hold()
    deadlines = [0.9, 0.6, 0.8, 0.7]  # below the second after which a call's age counts as much
    futures = [held.predict.options(deadline=d).submit(row(n)) for n, d in enumerate(deadlines)]
    held.gate.open()
    concurrent.futures.wait(futures, HANG)
    _, *served = held.gate.seen  # on a busy machine some may have expired
    assert served == sorted(served, key=lambda n: deadlines[int(n)])


def test_calls_of_one_priority_still_share_a_batch(hold: Any) -> None:
    held = hold()
    held.hold()
    futures = [held.predict.options(priority=n % 2).submit(row(n)) for n in range(20)]
    held.gate.open()
    concurrent.futures.wait(futures, HANG)
    assert held.gate.seen == [MARK, *range(1, 20, 2), *range(0, 20, 2)]
    assert held.predict.stats()["batch_rows"]["count"] == 3


@pytest.mark.parametrize("wrong", [0, -1, float("nan")])
def test_a_deadline_that_makes_no_sense_is_refused(predict: torchpool.Predictor, wrong: float) -> None:
    with pytest.raises(ValueError, match="deadline must be a positive number of seconds, or None, got"):
        predict.options(deadline=wrong)


def test_a_deadline_that_is_no_number_is_refused(predict: torchpool.Predictor) -> None:
    with pytest.raises(TypeError):
        predict.options(deadline="soon")


@pytest.mark.parametrize("wrong", [1.5, "high", None])
def test_a_priority_that_is_no_int_is_refused(predict: torchpool.Predictor, wrong: Any) -> None:
    with pytest.raises(TypeError, match="priority must be an int, got"):
        predict.options(priority=wrong)


@pytest.mark.parametrize("wrong", [2**31, -(2**31) - 1])
def test_a_priority_beyond_32_bits_is_refused(predict: torchpool.Predictor, wrong: int) -> None:
    with pytest.raises(ValueError, match="priority"):
        predict.options(priority=wrong)


def test_an_endless_deadline_is_none(predict: torchpool.Predictor) -> None:
    view = predict.options(deadline=float("inf"))
    assert_close(view(row(1)), eager(predict.model, row(1)))


def test_a_scripted_call_ends_at_its_deadline() -> None:
    class Slow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x
            for _ in range(int(x[0, 0])):
                y = y * 1.0 + 0.0
            return y

    predict = torchpool.wrap(torch.jit.script(Slow()), example=row(1), runtime=torchpool.Runtime(1))
    running = predict.options(deadline=SOON).submit(row(300_000.0))
    with pytest.raises(TimeoutError, match="deadline"):
        running.result(HANG)
    predict.close()
    assert predict.stats()["expired"] == 1
