"""Models that read what belongs to a thread: each call runs on the thread that makes it, alone."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import thread_tenants
import torch
from support import HANG, assert_close, build, draw, run_threads
from torch import nn

import torchpool
from torchpool.contract.probe import elsewhere


class Local(threading.local):
    tenant = 0


LOCAL = Local()
SETTINGS = SimpleNamespace(local=LOCAL)


class Scoped:
    local = LOCAL


def current() -> int:
    return LOCAL.tenant


def deeper() -> int:
    return current()


def deepest() -> int:
    return deeper()


def _by_attribute(net: Any, x: torch.Tensor) -> int:
    return net.local.tenant


def _by_object(net: Any, x: torch.Tensor) -> int:
    return net.kept.local.tenant


def _by_default(net: Any, x: torch.Tensor, local: Local = LOCAL) -> int:
    return local.tenant


def _closed_over(local: Local) -> Callable[..., int]:
    return lambda net, x: local.tenant


WAYS: dict[str, Callable[[Any, torch.Tensor], int]] = {
    "a global": lambda net, x: LOCAL.tenant,
    "a closure": _closed_over(LOCAL),
    "a default": _by_default,
    "an attribute": _by_attribute,
    "an attribute of an object": _by_object,
    "a global object": lambda net, x: SETTINGS.local.tenant,
    "a class": lambda net, x: Scoped.local.tenant,
    "a helper": lambda net, x: current(),
    "a helper of another file": lambda net, x: thread_tenants.current(LOCAL),
    "a partial": functools.partial(lambda local, net, x: local.tenant, LOCAL),
    "a method": lambda net, x: net.tenant(),
    "two helpers": lambda net, x: deepest(),
    "nothing but its thread": lambda net, x: thread_tenants.by_name(),
}
ASKS = "nothing but its thread"


class Tenants(nn.Module):
    """Has a layer for each tenant."""

    def __init__(self, way: Callable[[Any, torch.Tensor], int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))
        self.way = way
        if way is _by_attribute:
            self.local = LOCAL
        if way is _by_object:
            self.kept = SimpleNamespace(local=LOCAL)

    def tenant(self) -> int:
        return LOCAL.tenant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads[self.way(self, x)](x)


@pytest.fixture(autouse=True)
def _clean() -> Any:
    yield
    LOCAL.tenant = 0
    threading.current_thread().name = "MainThread"


def _as_tenant(number: int) -> None:
    LOCAL.tenant = number
    threading.current_thread().name = f"tenant-{number}"


def _ask(predict: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """In all the ways that a thread can ask."""

    async def awaited() -> torch.Tensor:
        result: torch.Tensor = await predict.acall(x)
        return result

    return [predict(x), predict.submit(x).result(HANG), *predict.map([x, x]), asyncio.run(awaited())]


@pytest.mark.parametrize("name", WAYS)
def test_each_thread_gets_its_own(name: str) -> None:
    model = build(lambda: Tenants(WAYS[name]))
    predict = torchpool.wrap(model)
    _as_tenant(1)
    predict(draw(1, 4))

    def work(number: int) -> None:
        _as_tenant(number % 3)
        for seed in range(5):
            x = draw(1, 4, seed=seed)
            with torch.no_grad():
                expected = model.heads[number % 3](x)  # type: ignore[operator]
            for result in _ask(predict, x):
                assert_close(result, expected)

    run_threads(6, work)
    text = str(predict.explain())
    assert "the model reads the state of the thread that calls it" in text
    assert ("is a threading.local" in text) == (name != ASKS), text
    assert ("by_name() asks for current_thread()" in text) == (name == ASKS), text


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("what", ["a function", "a module by itself", "an object"])
def test_what_is_not_probed_reads_its_callers_state_too(what: str, first: int) -> None:
    def plain(x: torch.Tensor) -> torch.Tensor:
        return x + deepest()

    class Module(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return plain(x)

    class Object:
        local = LOCAL

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.local.tenant

    made = {"a function": plain, "an object": Object()}
    predict = torchpool.wrap(made[what]) if what in made else torchpool.wrap(Module().eval(), batch=False)
    _as_tenant(first)
    predict(torch.zeros(1, 4))

    def work(number: int) -> None:
        _as_tenant(number % 3)
        for result in _ask(predict, torch.zeros(1, 4)):
            assert_close(result, torch.full((1, 4), float(number % 3)))

    run_threads(6, work)


def test_a_first_call_in_the_state_that_a_new_thread_has_tells_nothing() -> None:
    model = build(lambda: Tenants(WAYS["two helpers"]))
    predict = torchpool.wrap(model)
    predict(draw(1, 4))

    def work(number: int) -> None:
        _as_tenant(number % 3)
        x = draw(1, 4)
        with torch.no_grad():
            expected = model.heads[number % 3](x)  # type: ignore[operator]
        for result in _ask(predict, x):
            assert_close(result, expected)

    run_threads(6, work)


def test_a_model_that_raises_on_other_threads() -> None:
    here = threading.current_thread()

    class Bound(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if vars(threading)["current_thread"]() is not here:  # not seen in the code: the run there tells
                raise RuntimeError("made on another thread")
            return x * 2

    predict = torchpool.wrap(Bound().eval())
    assert_close(predict.submit(torch.ones(1, 4)).result(HANG), torch.full((1, 4), 2.0))
    assert "on another thread it raises (RuntimeError: made on another thread)" in str(predict.explain())


def test_a_model_that_waits_for_what_its_caller_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(elsewhere, "_PATIENCE_TIMES", 0)
    lock = threading.RLock()

    class Locked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with lock:
                return x * 2

    predict = torchpool.wrap(Locked().eval())
    with lock:
        assert_close(predict(torch.ones(1, 4)), torch.full((1, 4), 2.0))
    assert "on another thread it is stuck" in str(predict.explain())


def test_where_no_thread_can_be_had_calls_are_learned_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    predict = torchpool.wrap(build(lambda: nn.Linear(4, 3)))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        predict(draw(1, 4))
    assert predict.explain().contracts[0].mode == "merge"


def test_callers_autocast_and_context_hold_on_the_other_thread() -> None:
    model = build(lambda: nn.Linear(4, 3))
    predict = torchpool.wrap(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = predict(draw(1, 4))
    assert result.dtype == torch.bfloat16 and predict.explain().contracts[0].mode == "merge"
