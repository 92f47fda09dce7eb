"""Calls that may change the model, and all others: earlier ones come first, later ones after, however they are made."""

from __future__ import annotations

import asyncio
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from served import Served, contract, of_any_length, opening
from support import HANG, Gate

from torchpool import _core
from torchpool.contract import Contract
from torchpool.predictor import Calls
from torchpool.predictor.calls import View

LATE = 0.05  # seconds: a deadline that comes while a call is held
KNOWN, NEW = 4, 5  # columns; the module was run with the first
HELD = 7.0


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    with opening() as make:
        yield make


class Watched:
    """Doubles; holds calls at the gate whose values are HELD, and keeps when calls came and went, by their sizes."""

    def __init__(self) -> None:
        self.gate, self.log = Gate(), list[tuple[str, int]]()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.log.append(("in", x.size(1)))
        if bool((x == HELD).all()):
            self.gate.pass_through()
        self.log.append(("out", x.size(1)))
        return x * 2

    def was_alone(self, size: int) -> bool:
        """Whether the first call of so many columns met no other."""
        came, went = self.log.index(("in", size)), self.log.index(("out", size))
        before = [what for what, _ in self.log[:came]]
        return went == came + 1 and before.count("in") == before.count("out")


class Core:
    """As much of a predictor as its calls need."""

    _options = types.SimpleNamespace(examples=[])

    def __init__(self, core: _core.Predictor, model: Callable[..., Any] = torch.neg) -> None:
        self._core, self.model = core, model

    def _open_core(self) -> _core.Predictor:
        return self._core

    _callee = _open_core

    def _look_ahead(self) -> int:
        return 4

    def options(self, *, priority: int = 0, deadline: float | None = None) -> Calls:
        return View(self, priority, deadline)


def of(size: int, value: float = 1.0) -> torch.Tensor:
    return torch.full((1, size), value)


def awaited(calls: Calls, x: torch.Tensor) -> Any:
    async def wait() -> Any:
        return await calls.acall(x)

    return asyncio.run(wait())


WAYS: dict[str, Callable[[Calls, torch.Tensor], Any]] = {
    "call": lambda calls, x: calls(x),
    "submit": lambda calls, x: calls.submit(x).result(HANG),
    "acall": awaited,
    "map": lambda calls, x: next(iter(calls.map([x]))),
}
DEADLINES = pytest.mark.parametrize("deadline", [None, HANG], ids=["", "deadline"])
EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))


class Others:
    """Calls on threads of their own."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.results: list[Any] = []

    def call(self, run: Callable[[], Any]) -> None:
        def keep() -> None:
            with torch.no_grad():
                try:
                    self.results.append(run())
                except Exception as error:
                    self.results.append(error)

        self.threads.append(threading.Thread(target=keep))
        self.threads[-1].start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(HANG)
            assert not thread.is_alive()


def wait_until_one_waits(served: Served, others: Others) -> None:
    """Until a call has come that is to run alone, and has not run."""
    ended = len(others.results)
    while len(others.results) == ended:  # else it has ended instead, with an error as a rule
        try:
            View(Core(served.core), 0, LATE)(of(KNOWN))
        except TimeoutError:
            return
    raise AssertionError(f"nobody waits: {others.results}")


@EACH_WAY
@DEADLINES
@pytest.mark.parametrize("known", [contract(), of_any_length()], ids=["mismatch", "fits"])
@torch.no_grad()
def test_a_call_of_a_new_size_comes_after_those_before(
    serve: Callable[..., Served], way: Callable[[Calls, torch.Tensor], Any], deadline: float | None, known: Contract
) -> None:
    model, others = Watched(), Others()
    served = serve(model, known=known)
    others.call(lambda: served.core.call((of(KNOWN, HELD),), None))
    model.gate.wait_entered()
    others.call(lambda: way(View(Core(served.core), 0, deadline), of(NEW)))
    wait_until_one_waits(served, others)
    others.call(lambda: served.core.call((of(KNOWN, 2.0),), None))
    model.gate.open()
    others.join()
    assert sorted(result.size(1) for result in others.results) == [KNOWN, KNOWN, NEW]
    assert model.was_alone(NEW)


@EACH_WAY
@DEADLINES
@torch.no_grad()
def test_later_calls_come_after_one_of_a_new_size(
    serve: Callable[..., Served], way: Callable[[Calls, torch.Tensor], Any], deadline: float | None
) -> None:
    model, others = Watched(), Others()
    served = serve(model, known=of_any_length())
    others.call(lambda: served.core.call((of(NEW, HELD),), None))
    model.gate.wait_entered()
    with pytest.raises(TimeoutError):
        way(View(Core(served.core), 0, LATE), of(KNOWN))
    others.call(lambda: way(View(Core(served.core), 0, deadline), of(KNOWN)))
    model.gate.open()
    others.join()
    assert sorted(result.size(1) for result in others.results) == [KNOWN, NEW]
    assert model.was_alone(NEW)


@EACH_WAY
@torch.no_grad()
def test_a_call_that_expires_in_its_turn_leaves_the_size_new(
    serve: Callable[..., Served], way: Callable[[Calls, torch.Tensor], Any]
) -> None:
    model, others = Watched(), Others()
    served = serve(model, known=of_any_length())
    others.call(lambda: served.core.call((of(KNOWN, HELD),), None))
    model.gate.wait_entered()
    with pytest.raises(TimeoutError):
        way(View(Core(served.core), 0, LATE), of(NEW))
    assert ("in", NEW) not in model.log
    others.call(lambda: way(View(Core(served.core), 0, None), of(NEW)))
    wait_until_one_waits(served, others)
    model.gate.open()
    others.join()
    assert model.was_alone(NEW)


@EACH_WAY
@torch.no_grad()
def test_a_call_that_expires_while_it_runs_is_waited_for(
    serve: Callable[..., Served], way: Callable[[Calls, torch.Tensor], Any]
) -> None:
    model, others = Watched(), Others()
    served = serve(model, known=of_any_length())
    others.call(lambda: way(View(Core(served.core), 0, LATE), of(NEW, HELD)))
    model.gate.wait_entered()
    if way is not WAYS["acall"]:  # whose loop ends with its threads
        others.threads[0].join(HANG)
        assert isinstance(others.results[0], TimeoutError)
    wait_until_one_waits(served, others)
    others.call(lambda: served.core.call((of(KNOWN),), None))
    model.gate.open()
    others.join()
    assert any(isinstance(result, TimeoutError) for result in others.results)
    assert model.was_alone(NEW)


@EACH_WAY
@DEADLINES
@torch.no_grad()
def test_a_size_is_new_to_the_module_once(
    serve: Callable[..., Served], way: Callable[[Calls, torch.Tensor], Any], deadline: float | None
) -> None:
    model, others = Watched(), Others()
    served = serve(model, known=of_any_length())
    calls = View(Core(served.core), 0, deadline)
    assert way(calls, of(NEW)).shape == (1, NEW)
    others.call(lambda: served.core.call((of(KNOWN, HELD),), None))
    model.gate.wait_entered()
    assert served.core.call((of(NEW),), None).shape == (1, NEW)  # beside the one that is held
    model.gate.open()
    others.join()


@torch.no_grad()
def test_a_loop_goes_on_while_its_calls_wait_in_their_order(serve: Callable[..., Served]) -> None:
    model, others = Watched(), Others()
    served = serve(model, known=of_any_length())
    calls = View(Core(served.core), 0, None)
    others.call(lambda: calls(of(KNOWN, HELD)))
    model.gate.wait_entered()

    async def main() -> list[int]:
        unwanted = asyncio.ensure_future(calls.acall(of(NEW + 1)))
        started = [calls.acall(of(NEW)), calls.acall(of(KNOWN))]
        tasks = [asyncio.ensure_future(call) for call in reversed(started)]
        await asyncio.sleep(0)
        unwanted.cancel()
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        model.gate.open()
        return [result.size(1) for result in await asyncio.gather(*tasks)]

    assert asyncio.run(main()) == [KNOWN, NEW]
    others.join()
    assert model.was_alone(NEW)
    assert model.log[-2:] == [("in", KNOWN), ("out", KNOWN)]


@torch.no_grad()
def test_a_call_that_another_one_waits_for_in_the_model_goes_on(serve: Callable[..., Served]) -> None:
    threads = Others()

    def model(x: torch.Tensor) -> torch.Tensor:
        if bool((x == HELD).all()):
            threads.call(lambda: served.core.call((of(NEW),), None))
            threads.join()
        return x * 2

    served = serve(model, known=of_any_length())
    assert served.core.call((of(KNOWN, HELD),), None).shape == (1, KNOWN)
    assert threads.results[0].shape == (1, NEW)
