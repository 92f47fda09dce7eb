"""Updates beside updates, predictors that open and close in them, and interrupts: no gate stays shut."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
import torch
from support import HANG, build
from torch import nn
from torch.overrides import TorchFunctionMode

import torchpool
from torchpool import _core
from torchpool.predictor import updates
from torchpool.predictor.behind import Behind

X = torch.ones(1, 4)


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    """Threads beside the test's own."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def linear() -> torchpool.Predictor:
    """Learned, and called by its own thread."""
    predict = torchpool.wrap(build(lambda: nn.Linear(4, 4)), batch=False)
    predict(X)
    return predict


def enter_and_leave(predict: torchpool.Predictor) -> None:
    with predict.updating():
        pass


def test_updates_of_two_parts_of_one_model_take_turns(
    others: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share no weight, but a predictor whose calls both wait for."""
    model = build(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    whole, first, second = (torchpool.wrap(one, batch=False) for one in (model, model[0], model[1]))
    for predict in (whole, first, second):
        predict(X)
    waits = threading.Event()
    monkeypatch.setattr(updates._updates, "_refuse_circle", lambda other, me: waits.set())
    with first.updating():
        later = others.submit(enter_and_leave, second)
        assert waits.wait(HANG)
        assert not later.done()
    later.result(HANG)
    for future in [others.submit(predict, X) for predict in (whole, first, second)]:
        assert future.result(HANG).shape == (1, 4)


def test_a_predictor_that_opens_while_an_update_ends_is_open(
    others: ThreadPoolExecutor, linear: torchpool.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held by the update, or comes after it."""
    opening: list[Any] = []
    open_gates = _core.open_gates

    def and_another(gates: list[_core.UpdateGate]) -> None:
        open_gates(gates)
        opening.append(others.submit(torchpool.wrap, linear.model, batch=False))
        if not updates._updates._lock.locked():
            opening[0].result(HANG)

    monkeypatch.setattr(_core, "open_gates", and_another)
    enter_and_leave(linear)
    monkeypatch.undo()
    made = opening[0].result(HANG)
    assert others.submit(made, X).result(HANG).shape == (1, 4)


def test_a_predictor_that_opens_in_an_inner_update_waits_for_the_outer_one(
    others: ThreadPoolExecutor, linear: torchpool.Predictor
) -> None:
    """The weights may be half written until then."""
    with linear.updating():
        with linear.updating():
            made = torchpool.wrap(linear.model, batch=False)
        assert made._core.gate.held_here
        waiting = others.submit(made, X)
    assert waiting.result(HANG).shape == (1, 4)


@contextlib.contextmanager
def interrupted(place: str) -> Iterator[None]:
    """Ctrl-C comes as the next function of that name begins, as it may at any bytecode of Python's."""

    def interrupt(frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code.co_filename == updates.__file__ and frame.f_code.co_name == place:
            sys.settrace(before)
            raise KeyboardInterrupt

    before = sys.gettrace()
    with pytest.raises(KeyboardInterrupt):
        yield sys.settrace(interrupt)
    assert sys.gettrace() is before


@pytest.mark.parametrize("place", ["_leave", "end", "_held_by"])
def test_an_interrupt_as_an_update_ends_does_not_keep_it(
    place: str, others: ThreadPoolExecutor, linear: torchpool.Predictor
) -> None:
    """Calls and other updates would wait for ever."""
    update = linear.updating()
    update.__enter__()
    with interrupted(place):
        update.__exit__(None, None, None)
    assert others.submit(linear, X).result(HANG).shape == (1, 4)
    others.submit(enter_and_leave, linear).result(HANG)


@pytest.mark.parametrize("place", ["begin", "_held_by", "_take"])
def test_an_interrupt_as_an_update_begins_does_not_keep_it(
    place: str, others: ThreadPoolExecutor, linear: torchpool.Predictor
) -> None:
    """Wherever it comes."""
    with interrupted(place):
        enter_and_leave(linear)
    assert others.submit(linear, X).result(HANG).shape == (1, 4)
    others.submit(enter_and_leave, linear).result(HANG)


def test_what_would_wait_for_the_end_of_its_own_update_is_refused(linear: torchpool.Predictor) -> None:
    """A call that waits is in flight, and close() waits for it."""
    with linear.updating():
        for wait in (linear.close, linear.ready):
            with pytest.raises(RuntimeError, match="inside of its own updating"):
                wait()
    assert linear(X).shape == (1, 4), "it is not closed"
    with linear.updating():
        linear.close(wait=False)


class Passing(TorchFunctionMode):
    """Calls under a mode run on the thread that makes them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


WAYS: dict[str, Callable[[Any], object]] = {
    "call": lambda predict: predict(X),
    "submit": lambda predict: predict.submit(X).result(HANG),
    "map": lambda predict: list(predict.map([X])),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_deadline_ends_a_call_that_waits_on_its_own_thread(
    way: str, others: ThreadPoolExecutor, linear: torchpool.Predictor
) -> None:
    """However long the update takes."""

    def call() -> object:
        with torch.no_grad(), Passing():
            return WAYS[way](linear.options(deadline=0.01))

    with linear.updating(), pytest.raises(TimeoutError):
        others.submit(call).result(HANG)
    assert linear(X).shape == (1, 4)


def test_an_interrupt_while_the_learning_thread_starts_ends_the_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind is learned from the next one."""
    predict = torchpool.wrap(build(lambda: nn.Linear(4, 4)))

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "torchpool-learn":
            raise KeyboardInterrupt
        start(thread)

    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict.options(deadline=HANG)(X)
    monkeypatch.undo()
    assert predict.options(deadline=HANG)(X).shape == (1, 4)
    for thread in threading.enumerate():
        if thread.name == "torchpool-learn":
            thread.join(HANG)
    assert predict.explain().contracts


def test_the_learning_thread_goes_on_when_it_cannot_wait_for_a_call() -> None:
    """The promises behind it are kept."""
    settled, done = [], threading.Event()

    class Taken:
        def _settle_promise(self, kind_id: int, args: object, kwargs: object, learn: bool) -> None:
            settled.append((kind_id, learn))
            if kind_id == 2:
                done.set()

    class Answered:
        def wait_left(self) -> bool:
            raise MemoryError

    predictor: Any = Taken()
    answered: Any = Answered()
    behind = Behind(lambda: predictor)
    assert behind.add(1, answered, (), None)
    assert behind.add(2, None, (), None)
    assert done.wait(HANG)
    assert settled == [(1, False), (2, True)]
