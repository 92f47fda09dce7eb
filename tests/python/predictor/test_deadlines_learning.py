"""Deadlines while a kind of call is learned: of the call that it is learned from, and of those that come meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import HANG, Gate, assert_close, build, draw, eager, row
from torch import nn

import torchpool

SOON = 0.02  # seconds; a deadline that is to pass


class GatedRuns(nn.Module):
    """A linear layer, 4 to 3, over the last dim, whose runs but the first `free` ones wait at the gate."""

    def __init__(self, free: int, *, buffer: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.gate = Gate()
        self.free = free
        self.runs: list[tuple[int, ...]] = []
        if buffer:
            self.register_buffer("offset", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs.append(tuple(x.shape))
        if len(self.runs) > self.free:
            self.gate.pass_through()
        return self.linear(x)


def ungated(model: GatedRuns, x: torch.Tensor) -> torch.Tensor:
    return eager(model.linear, x)


def join_learners() -> None:
    for thread in threading.enumerate():
        if thread.name == "torchpool-learn":
            assert thread._started.wait(HANG)  # type: ignore[attr-defined]
            thread.join(HANG)
            assert not thread.is_alive(), "it learns for ever"


@pytest.fixture
def gated() -> Iterator[Callable[..., GatedRuns]]:
    made: list[GatedRuns] = []

    def make(free: int, **options: Any) -> GatedRuns:
        model = build(lambda: GatedRuns(free, **options))
        assert isinstance(model, GatedRuns)
        made.append(model)
        return model

    yield make
    for model in made:
        model.gate.open()
    join_learners()


def through_executor(view: Any, x: torch.Tensor) -> Any:
    with torchpool.ThreadPoolExecutor(1) as pool:
        return pool.submit(view, x).result(HANG)


async def awaited(view: Any, x: torch.Tensor) -> Any:
    return await view.acall(x)


WAYS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "call": lambda view, x: view(x),
    "submit": lambda view, x: view.submit(x).result(HANG),
    "map": lambda view, x: next(view.map([x])),
    "acall": lambda view, x: asyncio.run(awaited(view, x)),
    "executor": through_executor,
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@ways
def test_the_first_call_is_answered_by_the_models_own_run_and_learned_from_behind_it(gated: Any, way: Any) -> None:
    model = gated(1)  # all runs of the learner are held
    predict = torchpool.wrap(model)
    x = row(1)
    assert_close(way(predict.options(deadline=HANG), x), ungated(model, row(1)))
    assert not model.gate._opened.is_set()
    x.zero_()  # the caller may: its call is over
    model.gate.open()
    join_learners()
    assert [contract.mode for contract in predict.explain().contracts] == ["merge"]


@ways
def test_a_call_that_waits_for_a_learner_ends_at_its_deadline(gated: Any, way: Any) -> None:
    model = gated(1, buffer=True)  # with a buffer, no call may disturb the learner
    predict = torchpool.wrap(model)
    first = threading.Thread(target=predict, args=(row(),), daemon=True)
    first.start()
    model.gate.wait_entered()
    with pytest.raises(TimeoutError, match=r"deadline|^$"):
        way(predict.options(deadline=SOON), row(1))
    assert not model.gate._opened.is_set()
    model.gate.open()
    first.join(HANG)


@ways
def test_a_call_that_needs_no_learner_is_answered_while_one_is_at_work(gated: Any, way: Any) -> None:
    model = gated(1)
    predict = torchpool.wrap(model, runtime=torchpool.Runtime(1))
    assert_close(predict.options(deadline=HANG)(row()), ungated(model, row()))
    model.gate.wait_entered()
    model.free = 1_000_000  # the learner alone is held
    assert_close(way(predict.options(deadline=HANG), row(1)), ungated(model, row(1)))
    assert not model.gate._opened.is_set()


@ways
def test_a_first_call_that_takes_too_long_ends_at_its_deadline_and_is_learned_from(gated: Any, way: Any) -> None:
    model = gated(0)
    predict = torchpool.wrap(model)
    with pytest.raises(TimeoutError, match=r"deadline|^$"):
        way(predict.options(deadline=SOON), row(1))
    assert not model.gate._opened.is_set()
    model.gate.open()
    join_learners()
    assert_close(predict(row(2)), ungated(model, row(2)))
    assert [contract.mode for contract in predict.explain().contracts] == ["merge"]


def test_a_learner_begins_once_the_call_has_left_the_module(gated: Any) -> None:
    """Also where the call has expired by then: a module with state must not be run by both."""
    model = gated(0, buffer=True)
    predict = torchpool.wrap(model)
    with pytest.raises(TimeoutError):
        predict.options(deadline=SOON)(row())
    with pytest.raises(TimeoutError, match="while the model was being learned"):
        predict.options(deadline=SOON)(row())  # it waits, too
    assert len(model.runs) == 1
    model.gate.open()
    join_learners()
    assert len(model.runs) > 1


@ways
def test_a_call_of_another_length_is_answered_and_widens_behind_it(gated: Any, way: Any) -> None:
    model = gated(1_000_000)
    predict = torchpool.wrap(model, example=draw(1, 5, 4))
    model.free = len(model.runs) + 1
    assert_close(way(predict.options(deadline=HANG), draw(1, 7, 4)), ungated(model, draw(1, 7, 4)))
    assert not model.gate._opened.is_set()
    model.gate.open()
    join_learners()
    (contract,) = predict.explain().contracts
    assert isinstance(contract.inputs[0].sizes[1], str), "the length is still fixed"


def test_a_call_of_a_length_that_the_model_refuses_is_told_so() -> None:
    model = build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 3)))
    predict = torchpool.wrap(model, example=draw(1, 5, 4))
    view = predict.options(deadline=HANG)
    for _ in range(3):
        with pytest.raises(ValueError, match="the model refuses it"):
            view(draw(1, 7, 4))
    join_learners()
    assert_close(view(draw(1, 5, 4)), eager(model, draw(1, 5, 4)))


@pytest.mark.parametrize(
    "wrong", [row().long(), torch.zeros(1, 5), torch.zeros(2, 3, 5)], ids=["dtype", "size", "rank"]
)
def test_a_refusal_is_told_as_without_a_deadline(wrong: torch.Tensor) -> None:
    def refusal(deadline: float | None) -> BaseException:
        predict = torchpool.wrap(build(lambda: nn.Linear(4, 3)), example=row())
        with pytest.raises(Exception) as raised:
            predict.options(deadline=deadline)(wrong)
        return raised.value

    with_deadline, without = refusal(HANG), refusal(None)
    assert (type(with_deadline), str(with_deadline)) == (type(without), str(without))
    assert type(with_deadline.__cause__) is type(without.__cause__)


def test_a_call_that_the_model_refuses_teaches_nothing(gated: Any) -> None:
    model = gated(1_000_000)
    predict = torchpool.wrap(model)
    with pytest.raises(RuntimeError, match="shapes"):
        predict.options(deadline=HANG)(torch.zeros(1, 5))
    join_learners()
    assert predict.explain().contracts == ()
    assert_close(predict(row()), ungated(model, row()))
    assert [contract.mode for contract in predict.explain().contracts] == ["merge"]


def test_a_predictor_that_is_dropped_meanwhile_is_learned_and_freed(gated: Any) -> None:
    model = gated(1)
    assert_close(torchpool.wrap(model).options(deadline=HANG)(row()), ungated(model, row()))
    model.gate.wait_entered()
    model.gate.open()
    join_learners()


def test_where_no_thread_can_start_the_next_call_is_learned_from(gated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = gated(1_000_000)
    predict = torchpool.wrap(model)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "torchpool-learn":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert_close(predict.options(deadline=HANG)(row()), ungated(model, row()))
    assert predict.explain().contracts == ()
    assert_close(predict(row(1)), ungated(model, row(1)))
    assert [contract.mode for contract in predict.explain().contracts] == ["merge"]


@pytest.mark.graphs
def test_a_call_that_needs_a_proof_waits_for_it_no_longer_than_its_deadline(gated: Any) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if bool(x.sum() > 0) else x

    predict = torchpool.wrap(build(Branches), prove="required")
    with pytest.raises(ValueError, match="prove='required'"):
        predict.options(deadline=HANG)(row())
    model = gated(0)
    with pytest.raises(TimeoutError, match="while the model was being learned"):
        torchpool.wrap(model, prove="required").options(deadline=SOON)(row())
    assert not model.gate._opened.is_set()
