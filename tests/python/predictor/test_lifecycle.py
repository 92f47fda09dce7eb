"""From wrap to close: every call in flight ends in a result or an exception, and nothing is counted twice."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import multiprocessing
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import HANG, MARK, POISON, LSTMClassifier, MarkerModule, assert_close, build, draw, eager, row, run_threads

import torchpool

Call = Callable[[torchpool.Predictor], Any]
CALLS: dict[str, Call] = {
    "call": lambda predict: predict(row(1)),
    "submit": lambda predict: predict.submit(row(1)),
    "map": lambda predict: predict.map([row(1)]),
    "view": lambda predict: predict.options(priority=1)(row(1)),
}


def assert_all_resolved(predict: torchpool.Predictor) -> None:
    stats = predict.stats()
    assert stats["accepted"] == stats["resolved"]
    assert stats["waiting_rows"] == stats["running_batches"] == 0


def test_close_waits_for_what_is_in_flight(hold: Any) -> None:
    held = hold()
    first, second = held.hold(), held.predict.submit(row(1))
    closing = threading.Thread(target=held.predict.close, daemon=True)
    closing.start()
    held.gate.open()
    closing.join(HANG)
    assert not closing.is_alive()
    assert_close(first.result(HANG), eager(held.model, row(MARK)))
    assert_close(second.result(HANG), eager(held.model, row(1)))
    assert_all_resolved(held.predict)


def test_futures_are_done_when_close_returns() -> None:
    model = build(MarkerModule)
    for _ in range(50):
        with torchpool.wrap(model, example=row()) as predict:
            futures = [predict.submit(row(n)) for n in range(20)]
        assert all(future.done() for future in futures)


def test_close_without_waiting_returns_while_calls_run(hold: Any) -> None:
    held = hold()
    first, second = held.hold(), held.predict.submit(row(1))
    held.predict.close(wait=False)
    assert not first.done()
    held.gate.open()
    assert_close(second.result(HANG), eager(held.model, row(1)))


def test_close_with_cancel_pending_fails_what_has_not_started(hold: Any) -> None:
    held = hold()
    running = held.hold()
    waiting = [held.predict.submit(row(n)) for n in range(5)]
    held.predict.close(wait=False, cancel_pending=True)
    for future in waiting:
        with pytest.raises(torchpool.Closed, match="closed before the call started"):
            future.result(HANG)
    held.gate.open()
    assert_close(running.result(HANG), eager(held.model, row(MARK)))
    held.predict.close()
    assert_all_resolved(held.predict)
    assert held.gate.seen[:2] == [MARK, MARK]


@pytest.mark.parametrize("call", CALLS)
def test_calls_after_close_are_refused(call: str) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    predict.close()
    with pytest.raises(torchpool.Closed, match="predictor 'MarkerModule' is closed"):
        CALLS[call](predict)


def test_callers_that_wait_for_a_result_get_closed(hold: Any) -> None:
    held = hold()
    held.hold()

    def work(number: int) -> Any:
        if number == 0:
            while held.predict.stats()["waiting_rows"] < 3:
                threading.Event().wait(0.001)
            return held.predict.close(wait=False, cancel_pending=True)
        with pytest.raises(torchpool.Closed):
            held.predict(row(number))
        return None

    run_threads(4, work)


def test_callers_that_wait_for_room_get_closed(hold: Any) -> None:
    held = hold(queue_size=1)
    held.hold()
    waiting = held.predict.submit(row(1))
    entered = threading.Event()

    def work(number: int) -> Any:
        if number == 0:
            assert entered.wait(HANG)
            return held.predict.close(wait=False)
        entered.set()
        with pytest.raises(torchpool.Closed):
            held.predict.submit(row(2))
        return None

    run_threads(2, work)
    held.gate.open()
    assert waiting.result(HANG).shape == (1, 3)


def test_leaving_the_context_waits_and_closes() -> None:
    with torchpool.wrap(build(MarkerModule), example=row()) as predict:
        futures = [predict.submit(row(n)) for n in range(100)]
    assert all(future.done() for future in futures)
    with pytest.raises(torchpool.Closed):
        predict(row(1))


def test_an_error_inside_the_context_is_not_hidden() -> None:
    with pytest.raises(KeyError), torchpool.wrap(build(MarkerModule), example=row()):
        raise KeyError


def test_closing_twice_and_from_many_threads_is_fine() -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    futures = [predict.submit(row(n)) for n in range(100)]
    run_threads(8, lambda number: predict.close(cancel_pending=number % 2 == 0))
    predict.close()
    concurrent.futures.wait(futures, HANG)
    assert_all_resolved(predict)


class Closing(MarkerModule):
    """Closes its own predictor when it sees MARK."""

    predict: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x == MARK).any()):
            self.predict.close()
        return super().forward(x)


@pytest.mark.parametrize("way", ["call", "submit"])
def test_a_model_may_close_its_own_predictor(way: str) -> None:
    model = build(Closing)
    runtime = torchpool.Runtime(1)
    predict = model.predict = torchpool.wrap(model, example=row(), backend="python", runtime=runtime)
    call = {"call": predict, "submit": lambda x: predict.submit(x).result(HANG)}[way]
    (result,) = run_threads(1, lambda number: call(row(MARK)))
    assert result.shape == (1, 3)
    with pytest.raises(torchpool.Closed):
        predict(row(1))
    model.predict = None


def test_a_callback_may_close_the_runtime(hold: Any) -> None:
    held = hold()
    closed = threading.Event()

    def callback(done: Any) -> None:
        held.runtime.close()
        closed.set()

    held.hold().add_done_callback(callback)
    held.gate.open()
    assert closed.wait(HANG)


@pytest.mark.graphs
def test_a_dropped_predictor_is_freed_at_once() -> None:
    model = build(MarkerModule)
    predict = torchpool.wrap(model)
    list(predict.map(map(row, range(10))))
    assert predict.ready(HANG)  # a capture holds the model until it is given up, a moment later
    gone, model_gone = weakref.ref(predict), weakref.ref(model)
    del predict
    assert gone() is None
    del model
    gc.collect()
    torchpool.wrap(build(MarkerModule))(row())  # drops what threads without the interpreter's lock put by
    assert model_gone() is None


def test_a_dropped_predictor_lets_running_calls_finish_and_fails_the_rest(hold: Any) -> None:
    held = hold()
    running = held.hold()
    waiting = [held.predict.submit(row(n)) for n in range(5)]
    dropping = threading.Thread(target=vars(held).pop, args=("predict",), daemon=True)  # it may wait for what runs
    dropping.start()
    for future in waiting:
        with pytest.raises(torchpool.Closed):
            future.result(HANG)
    held.gate.open()
    assert_close(running.result(HANG), eager(held.model, row(MARK)))
    dropping.join(HANG)
    assert not dropping.is_alive()


def fails(held: Any) -> None:
    held.predict.submit(row(POISON)).exception(HANG)


def is_cancelled(held: Any) -> None:
    held.hold()
    held.predict.submit(row(1)).cancel()


def expires(held: Any) -> None:
    held.hold()
    with pytest.raises(TimeoutError):
        held.predict.options(deadline=0.01)(row(1))


def expires_while_running(held: Any) -> None:
    with pytest.raises(TimeoutError):
        held.predict.options(deadline=0.05)(row(MARK))


def is_closed(held: Any) -> None:
    held.hold()
    held.predict.submit(row(1))
    held.predict.close(wait=False, cancel_pending=True)


def loses_its_runtime(held: Any) -> None:
    held.hold()
    held.predict.submit(row(1))
    threading.Thread(target=held.runtime.close, daemon=True).start()


def is_left_by_map(held: Any) -> None:
    held.hold()
    held.predict.map([row(1), row(2)]).close()


@pytest.mark.parametrize(
    "end", [fails, is_cancelled, expires, expires_while_running, is_closed, loses_its_runtime, is_left_by_map]
)
def test_what_was_accepted_is_resolved_however_it_ends(hold: Any, end: Callable[[Any], None]) -> None:
    held = hold()
    held.predict(row(0))
    end(held)
    held.gate.open()
    held.predict.close()
    assert_all_resolved(held.predict)


def test_a_runtime_of_its_own_serves_several_predictors() -> None:
    runtime = torchpool.Runtime(1)
    models = [build(MarkerModule), build(LSTMClassifier)]
    inputs = [row(1), draw(1, 50, 10)]
    predictors = [torchpool.wrap(model, runtime=runtime) for model in models]
    for model, predict, x in zip(models, predictors, inputs, strict=True):
        assert_close(predict.submit(x).result(HANG), eager(model, x))
        assert predict.stats()["workers"] == 1
    runtime.close()


def test_closing_a_runtime_fails_what_waits_and_refuses_more(hold: Any) -> None:
    held = hold()
    running, waiting = held.hold(), held.predict.submit(row(1))
    closing = threading.Thread(target=held.runtime.close, daemon=True)
    closing.start()
    with pytest.raises(torchpool.Closed, match="runtime was closed"):
        waiting.result(HANG)
    held.gate.open()
    closing.join(HANG)
    assert_close(running.result(HANG), eager(held.model, row(MARK)))
    held.runtime.close()
    with pytest.raises(torchpool.Closed):
        held.predict.submit(row(2))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2"])
def test_a_runtime_refuses_a_number_of_workers_that_makes_no_sense(wrong: Any) -> None:
    with pytest.raises(ValueError, match="workers must be an int of at least 1, got"):
        torchpool.Runtime(wrong)


def no_probe(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("probed again")


@pytest.mark.parametrize("copied", [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_pickled_predictor_keeps_what_it_learned(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    predict = torchpool.wrap(build(LSTMClassifier), name="classifier", max_batch=16)
    x = draw(1, 50, 10)
    expected = predict(x)
    monkeypatch.setattr("torchpool.predictor.probes.find", no_probe)
    other = copied(predict)
    assert_close(other(x), expected)
    assert_close(other.submit(x).result(HANG), expected)
    assert other.explain().contracts == predict.explain().contracts
    assert other.stats()["max_batch"] == 16
    assert other.stats()["name"] == "classifier"


def test_a_predictor_that_has_learned_nothing_can_be_pickled() -> None:
    predict = pickle.loads(pickle.dumps(torchpool.wrap(build(MarkerModule))))
    assert_close(predict(row(1)), eager(build(MarkerModule), row(1)))


def test_a_predictor_with_a_runtime_of_its_own_says_that_it_cannot_be_pickled(hold: Any) -> None:
    with pytest.raises(TypeError, match="Runtime of its own cannot be pickled"):
        pickle.dumps(hold().predict)


def test_a_predictor_can_be_sent_to_a_spawned_process() -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert_close(executor.submit(predict, row(1)).result(HANG), predict(row(1)))
