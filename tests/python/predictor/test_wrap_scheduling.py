"""max_delay, weight and max_batch, workers that come and go, and what stats() says of the batches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchpool_lab
from bad_models import Noted, Raiser, busy, together
from support import (
    HANG,
    MARK,
    LSTMClassifier,
    MarkerModule,
    assert_all_close,
    assert_close,
    build,
    draw,
    draws,
    eager,
    row,
    run_threads,
)
from torch import nn

import torchpool


class Most:
    """How many were inside at a time, at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._inside -= 1


def noted(note: Callable[[int], Any]) -> Noted:
    return Noted(build(MarkerModule), note).eval()


@pytest.fixture
def rows() -> list[int]:
    """Of each run of a model that notes them here."""
    return []


@pytest.mark.parametrize("wrong", [-1, -1e-9, float("inf"), float("nan"), "soon", None, True])
def test_a_delay_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="max_delay must be a number of seconds, 0 or more, got"):
        torchpool.wrap(build(Raiser), max_delay=wrong)


@pytest.mark.parametrize("wrong", [0, -1, 1e-4, 1001, float("inf"), float("nan"), "heavy", None, True])
def test_a_weight_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"weight must be a number from 0\.001 to 1000, got"):
        torchpool.wrap(build(Raiser), weight=wrong)


@pytest.mark.parametrize("options", [{"max_delay": 0}, {"max_delay": 0.001}, {"weight": 0.001}, {"weight": 1000}])
def test_the_bounds_themselves_are_fine(options: dict[str, Any], runtime: torchpool.Runtime) -> None:
    model = build(MarkerModule)
    predict = torchpool.wrap(model, example=row(), runtime=runtime, **options)
    assert_close(predict(row(1)), eager(model, row(1)))
    assert_all_close(predict.map(map(row, range(50))), (eager(model, row(n)) for n in range(50)))


@pytest.mark.parametrize("way", ["call", "submit", "map"])
def test_a_lone_call_is_answered_whatever_it_may_be_held_for(runtime: torchpool.Runtime, way: str) -> None:
    model = build(MarkerModule)
    predict = torchpool.wrap(model, example=row(), runtime=runtime, max_delay=1000 * HANG)
    # The first ones teach what a batch costs and how often calls come: what a hold is decided by.
    assert_all_close(predict.map(map(row, range(300))), (eager(model, row(n)) for n in range(300)))
    result = {
        "call": lambda: predict(row(1)),
        "submit": lambda: predict.submit(row(1)).result(HANG),
        "map": lambda: next(predict.map([row(1)], timeout=HANG)),
    }[way]()
    assert_close(result, eager(model, row(1)))


def test_held_calls_of_many_threads_are_all_right() -> None:
    model = build(LSTMClassifier)
    inputs = draws(40, 1, 20, 10)
    expected = [eager(model, x) for x in inputs]
    runtime = torchpool.Runtime(2)
    with torchpool.wrap(model, example=inputs[0], runtime=runtime, max_delay=0.002) as predict:
        results = run_threads(8, lambda number: [predict(x) for x in inputs])
        for of_thread in results:
            assert_all_close(of_thread, expected)
        stats = predict.stats()
    runtime.close()
    assert stats["accepted"] == stats["resolved"] == stats["succeeded"] == 8 * 40


def test_a_held_call_ends_at_its_deadline_or_with_its_result(runtime: torchpool.Runtime) -> None:
    model = build(MarkerModule)
    predict = torchpool.wrap(model, example=row(), runtime=runtime, max_delay=HANG)
    list(predict.map(map(row, range(300))))
    futures = [predict.options(deadline=0.05 * n).submit(row(n)) for n in range(1, 20)]
    ends = [future.exception(HANG) for future in futures]
    for n, (future, error) in enumerate(zip(futures, ends, strict=True), 1):
        if error is None:
            assert_close(future.result(), eager(model, row(n)))
        else:
            assert isinstance(error, TimeoutError)
    assert predict.stats()["expired"] == sum(error is not None for error in ends)


@pytest.mark.parametrize("max_batch", [1, 3, 7, 100])
@pytest.mark.parametrize("fixed", [None, (2, 0.0), (64, 0.0)], ids=["learned", "fixed 2", "fixed 64"])
def test_no_batch_has_more_rows_than_max_batch(
    runtime: torchpool.Runtime, rows: list[int], max_batch: int, fixed: tuple[int, float] | None
) -> None:
    predict = torchpool.wrap(noted(rows.append), example=row(), runtime=runtime, max_batch=max_batch, backend="python")
    torchpool_lab.set_fixed_batches(predict._core, fixed)
    rows.clear()  # of probing
    for _ in range(3):
        results = together(predict, runtime, [(row(n),) for n in range(250)])
        assert_all_close(results, (eager(predict.model.inner, row(n)) for n in range(250)))
    most = min(max_batch, fixed[0] if fixed else max_batch)
    assert max(rows) <= most
    assert sum(rows) == 750
    stats = predict.stats()
    assert (stats["batch_rows"]["max"], stats["batch_rows"]["count"]) == (max(rows), len(rows))
    assert stats["max_batch"] == max_batch


@pytest.mark.graphs
def test_learned_sizes_of_a_graph_stay_below_max_batch(runtime: torchpool.Runtime) -> None:
    model = build(LSTMClassifier)
    predict = torchpool.wrap(model, example=draw(1, 5, 10), runtime=runtime, max_batch=6, backend="graph")
    inputs = draws(20, 1, 5, 10)
    expected = [eager(model, x) for x in inputs]
    for _ in range(30):
        assert_all_close(predict.map(inputs), expected)
    stats = predict.stats()
    assert 1 < stats["batch_rows"]["max"] <= 6
    assert all(point["rows"] <= 8 for point in stats["cost"])  # classes are powers of two


def test_fixed_batches_may_be_turned_off_again(runtime: torchpool.Runtime, rows: list[int]) -> None:
    predict = torchpool.wrap(noted(rows.append), example=row(), runtime=runtime, max_batch=32, backend="python")
    torchpool_lab.set_fixed_batches(predict._core, (1, 0.0))
    rows.clear()
    together(predict, runtime, [(row(n),) for n in range(8)])
    assert rows == [1] * 8
    torchpool_lab.set_fixed_batches(predict._core, None)
    together(predict, runtime, [(row(n),) for n in range(8)])
    assert rows == [1] * 8 + [8]


def test_predictors_of_unequal_weight_on_one_worker_both_finish(runtime: torchpool.Runtime) -> None:
    heavy = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, weight=1000, max_batch=2)
    light = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, weight=0.001, max_batch=2)
    with busy(runtime):
        futures = [(predict, n, predict.submit(row(n))) for n in range(200) for predict in (heavy, light)]
    for predict, n, future in futures:
        assert_close(future.result(HANG), eager(predict.model, row(n)))
    for predict in (heavy, light):
        stats = predict.stats()
        assert stats["accepted"] == stats["resolved"] == stats["succeeded"] == 200


def test_a_new_worker_takes_what_waits_behind_a_held_one(hold: Any) -> None:
    held = hold(max_batch=1)
    first = held.hold()
    second, third = held.predict.submit(row(MARK)), held.predict.submit(row(1))
    held.runtime.resize(2)
    held.gate.wait_entered()
    assert not first.done() and not second.done()
    held.runtime.resize(workers=3)
    assert_close(third.result(HANG), eager(held.model.linear, row(1)))
    assert (held.runtime.workers, held.predict.stats()["workers"]) == (3, 3)
    held.gate.open()
    assert_all_close([first.result(HANG), second.result(HANG)], [eager(held.model.linear, row(MARK))] * 2)


def hold_one_more(held: Any, predict: Any = None) -> Any:
    """With a worker more. A lone batch has all cores, so that calls are held on two workers one after the other."""
    future = (predict or held.predict).submit(row(MARK))
    held.runtime.resize(held.runtime.workers + 1)
    held.gate.wait_entered()
    return future


def test_a_worker_that_leaves_finishes_what_it_runs(hold: Any) -> None:
    held = hold(max_batch=1)
    runtime = held.runtime
    running = [held.hold(), hold_one_more(held)]
    shrinking = threading.Thread(target=runtime.resize, args=(1,), daemon=True)
    shrinking.start()
    waiting = [held.predict.submit(row(n)) for n in range(20)]  # accepted in the meantime, too
    held.gate.open()
    shrinking.join(HANG)
    assert not shrinking.is_alive()
    assert runtime.workers == 1
    assert_all_close([f.result(HANG) for f in running], [eager(held.model.linear, row(MARK))] * 2)
    assert_all_close([f.result(HANG) for f in waiting], (eager(held.model, row(n)) for n in range(20)))


def test_after_a_shrink_no_more_batches_run_at_a_time(hold: Any) -> None:
    held = hold(max_batch=1)
    inside = Most()
    linear = held.model.linear

    def watched(x: torch.Tensor) -> torch.Tensor:
        with inside:
            if bool((x == MARK).any()):
                held.gate.pass_through()
            return linear(x)

    predict = torchpool.wrap(watched, example=row(), runtime=held.runtime, max_batch=1)
    running = [held.hold(predict), hold_one_more(held, predict), hold_one_more(held, predict)]
    assert inside.most == held.runtime.workers == 3
    held.gate.open()
    for future in running:
        future.result(HANG)
    list(predict.map(map(row, range(300))))
    held.runtime.resize(1)
    inside.most = 0
    results = list(predict.map(map(row, range(300))))
    assert inside.most == 1
    assert_all_close(results, (eager(linear, row(n)) for n in range(300)))


@pytest.mark.graphs
@pytest.mark.parametrize("backend", ["python", "graph"])
def test_results_are_right_while_workers_come_and_go(backend: Any) -> None:
    runtime = torchpool.Runtime(2)
    model = build(MarkerModule) if backend == "python" else build(LSTMClassifier)
    inputs = draws(50, 1, 4) if backend == "python" else draws(50, 1, 5, 10)
    expected = [eager(model, x) for x in inputs]
    done = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            sizes = [(1, 1), (3, 1), (2, 2), (1, 2), (4, 1), (2, 1)]
            while not done.is_set():
                for workers, threads in sizes:
                    runtime.resize(workers, threads)
                    assert (runtime.workers, runtime.threads_per_worker) == (workers, threads)
            return
        try:
            for _ in range(4):
                assert_all_close((predict(x) for x in inputs), expected)
                assert_all_close(predict.map(inputs), expected)
        finally:
            if number == 1:
                done.set()

    with torchpool.wrap(model, example=inputs[0], runtime=runtime, backend=backend, max_batch=8) as predict:
        run_threads(5, work)
    runtime.close()
    stats = predict.stats()
    assert stats["accepted"] == stats["resolved"] == stats["succeeded"] == 4 * 4 * 100
    assert runtime.workers == 2


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True])
@pytest.mark.parametrize("name", ["workers", "threads_per_worker"])
def test_a_size_that_makes_no_sense_is_refused_and_changes_nothing(
    runtime: torchpool.Runtime, name: str, wrong: Any
) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an int of at least 1, got"):
        runtime.resize(**{name: wrong})
    assert (runtime.workers, runtime.threads_per_worker) == (1, 1)


def test_what_is_not_given_stays() -> None:
    runtime = torchpool.Runtime(2)
    runtime.resize(threads_per_worker=3)
    assert (runtime.workers, runtime.threads_per_worker) == (2, 3)
    runtime.resize(workers=1)
    assert (runtime.workers, runtime.threads_per_worker) == (1, 3)
    runtime.resize()
    assert (runtime.workers, runtime.threads_per_worker) == (1, 3)
    runtime.close()


def test_a_closed_runtime_is_not_resized(runtime: torchpool.Runtime) -> None:
    runtime.close()
    with pytest.raises(torchpool.Closed, match="the runtime is closed"):
        runtime.resize(2)
    assert runtime.workers == 1


def test_a_model_cannot_resize_the_runtime_that_runs_it(runtime: torchpool.Runtime) -> None:
    def resize(x: torch.Tensor) -> torch.Tensor:
        runtime.resize(2)
        return x

    predict = torchpool.wrap(resize, runtime=runtime)
    with pytest.raises(RuntimeError, match="cannot be resized by its worker"):
        predict.submit(row()).result(HANG)
    assert runtime.workers == 1


def test_the_cost_table_counts_every_batch(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime, max_batch=4)
    assert predict.stats()["cost"] == []
    for count in (1, 2, 3, 4, 4):
        together(predict, runtime, [(x,) for x in draws(count, 1, 4)])
    predict.close()  # the last batch is recorded behind its callers' backs
    stats = predict.stats()
    for point in stats["cost"]:
        assert {name: type(value) for name, value in point.items() if name != "seconds_per_item"} == {
            "rows": int,
            "length": int,
            "one_core": bool,
            "batches": int,
            "seconds_per_cell": float,
        }
        assert point["seconds_per_item"] is None or 0 < point["seconds_per_item"] < HANG
        assert 0 < point["seconds_per_cell"] < HANG
        assert point["length"] == 1  # no dim varies
    by_class = {point["rows"]: point["batches"] for point in stats["cost"]}
    assert by_class == {1: 1, 2: 1, 4: 3}  # (2, 4] is one class
    assert sum(by_class.values()) == stats["batch_rows"]["count"] == 5


class Pointwise(nn.Module):
    """Each position [B, T, 4] by itself, to [B, T, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def test_padding_is_the_share_of_the_cells_that_nobody_asked_for(runtime: torchpool.Runtime) -> None:
    model = build(Pointwise)
    predict = torchpool.wrap(model, example=[draw(1, 5, 4), draw(1, 8, 4)], pad={"x": 0.0}, runtime=runtime)
    together(predict, runtime, [(x,) for x in draws(4, 1, 8, 4)])
    assert predict.stats()["padding"] == 0.0
    calls = [(draw(1, length, 4),) for length in (7, 8)]
    assert_all_close(together(predict, runtime, calls), (eager(model, x) for (x,) in calls))
    predict.close()
    stats = predict.stats()
    assert (stats["batch_rows"]["count"], stats["batch_rows"]["max"]) == (2, 4)
    assert stats["padding"] == pytest.approx(1 / (4 * 8 + 2 * 8))  # one cell of 48
    assert {point["length"] for point in stats["cost"]} == {8}


def test_counts_are_ints_and_agree_at_rest(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime)
    fresh = predict.stats()
    list(predict.map(draws(30, 1, 4)))
    predict(draw(1, 4))
    predict.close()
    stats = predict.stats()
    counts = [name for name, value in fresh.items() if type(value) is int]
    assert {"accepted", "resolved", "inline", "out_of_memory", "max_batch", "workers", "running_batches"} < {*counts}
    assert all(type(stats[name]) is int and stats[name] >= 0 for name in counts)
    assert stats["accepted"] == stats["resolved"] == stats["succeeded"] == 31
    assert stats["out_of_memory"] == stats["fell_back"] == stats["upkeep_failed"] == 0
    assert stats["batch_rows"]["mean"] * stats["batch_rows"]["count"] + stats["inline"] == pytest.approx(31)
