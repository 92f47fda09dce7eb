"""Calls of sizes that the module was not run with before: they come after all others."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from served import Served, contract, of_any_length, opening
from support import HANG, Gate

from torchpool.contract import Contract


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    with opening() as make:
        yield make


class Watched:
    """Doubles; holds the first call of `held` columns at the gate, and keeps when calls came and went."""

    def __init__(self, held: int) -> None:
        self.gate, self.log, self._held = Gate(), list[tuple[str, int]](), held

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.log.append(("in", x.size(1)))
        if x.size(1) == self._held and self.log.count(("in", self._held)) == 1:
            self.gate.pass_through()
        self.log.append(("out", x.size(1)))
        return x * 2


def call_late(served: Served, model: Watched, first: int, second: int) -> None:
    """A call of `first` columns that is held in the module, and one of `second` columns on another thread."""
    made = threading.Event()

    def call(size: int, tell: Callable[[], object]) -> None:
        served.core.call((torch.ones(1, size), tell())[:1], None)

    threads = [threading.Thread(target=call, args=(first, int))]
    threads[0].start()
    model.gate.wait_entered()
    threads.append(threading.Thread(target=call, args=(second, made.set)))
    threads[1].start()
    assert made.wait(HANG)
    model.gate.open()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive()


@torch.no_grad()
@pytest.mark.parametrize("known", [contract(), of_any_length()], ids=["mismatch", "fits"])
@pytest.mark.parametrize("second", [6, 7])
def test_the_first_call_of_a_size_comes_after_those_before(
    serve: Callable[..., Served], known: Contract, second: int
) -> None:
    model = Watched(held=6)
    served = serve(model, known=known)
    model.log.clear()
    call_late(served, model, 6, second)
    assert model.log == [("in", 6), ("out", 6), ("in", second), ("out", second)]


@torch.no_grad()
def test_what_another_call_has_taught_meanwhile_is_not_learned_again(serve: Callable[..., Served]) -> None:
    model = Watched(held=6)
    served = serve(model)
    served.told.learns_next(of_any_length())
    call_late(served, model, 6, 7)
    assert len(served.told.mismatches) == 1


@torch.no_grad()
def test_the_first_call_of_a_size_waits_for_calls_of_known_sizes(serve: Callable[..., Served]) -> None:
    model = Watched(held=6)
    served = serve(model, known=of_any_length())
    model.gate.open()
    served.core.call((torch.ones(1, 6),), None)
    model.gate = Gate()
    model.log.clear()
    call_late(served, model, 6, 5)
    assert model.log == [("in", 6), ("out", 6), ("in", 5), ("out", 5)]


@torch.no_grad()
def test_a_call_of_the_module_does_not_wait_for_the_one_that_it_serves(serve: Callable[..., Served]) -> None:
    waited = list[float]()

    def model(x: torch.Tensor) -> Any:
        if x.size(1) == 6:
            started = time.monotonic()
            inner = served.core.call((x[:, 1:],), None)
            waited.append(time.monotonic() - started)
            return torch.cat([x[:, :1] * 2, inner], 1)
        return x * 2

    served = serve(model, known=of_any_length())
    assert torch.equal(served.core.call((torch.ones(1, 6),), None), torch.full((1, 6), 2.0))
    assert waited[0] < 20.0, "the longest that a call waits for those before it"


@torch.no_grad()
def test_a_call_counts_when_its_outcome_is_known(serve: Callable[..., Served]) -> None:
    seen = list[tuple[int, int]]()

    def model(x: torch.Tensor) -> torch.Tensor:
        if x.size(1) > 4:
            stats = served.core.stats()
            seen.append((stats["failed"], stats["accepted"] - stats["resolved"]))
        if x.size(1) > 5:
            raise ValueError("too long")
        return x * 2

    served = serve(model)
    served.core.call((torch.ones(1, 5),), None)
    with pytest.raises(ValueError, match="too long"):
        served.core.call((torch.ones(1, 6),), None)
    assert seen == [(0, 1), (0, 1)]
    stats = served.core.stats()
    assert (stats["accepted"], stats["succeeded"], stats["failed"]) == (2, 1, 1)


@torch.no_grad()
@pytest.mark.parametrize("known", [contract(), of_any_length()], ids=["mismatch", "fits"])
def test_an_interrupt_reaches_who_submits(serve: Callable[..., Served], known: Contract) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        if x.size(1) > 4:
            raise KeyboardInterrupt
        return x * 2

    served = serve(model, known=known)
    with pytest.raises(KeyboardInterrupt):
        served.core.submit((torch.ones(1, 5),), None)
    with pytest.raises(KeyboardInterrupt):
        served.core.submit_future((torch.ones(1, 6),), None, 0, None)
    assert served.core.stats()["failed"] == 2


@torch.no_grad()
def test_an_interrupt_ends_the_wait_for_the_calls_before(serve: Callable[..., Served]) -> None:
    model, submits = Watched(held=6), threading.Event()
    served = serve(model, known=of_any_length())
    model.log.clear()

    def interrupt() -> None:
        assert submits.wait(HANG)
        _thread.interrupt_main()

    threads = [threading.Thread(target=lambda: served.core.call((torch.ones(1, 6),), None))]
    threads[0].start()
    model.gate.wait_entered()
    threads.append(threading.Thread(target=interrupt))
    threads[1].start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts tests in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            served.core.submit((torch.ones(1, 5), submits.set())[:1], None)
    finally:
        signal.signal(signal.SIGINT, before)
        model.gate.open()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive()
    assert model.log == [("in", 6), ("out", 6)]
