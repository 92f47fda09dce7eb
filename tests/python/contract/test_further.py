"""Where the state of a thread may hide from who looks through a model's code."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Callable
from threading import current_thread as who
from threading import get_ident as number_of_thread
from types import SimpleNamespace
from typing import Any

import pytest
import thread_tenants
import torch
from support import build
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from torchpool.contract.reach import Reach


class Local(threading.local):
    tenant: int = 0


LOCAL = Local()
BY_THREAD: dict[int, int] = {}


class Slots:
    __slots__ = ("local", "unset")

    def __init__(self) -> None:
        self.local = LOCAL


class Asked:
    """Tells by its methods only."""

    def __init__(self) -> None:
        self._kept = LOCAL

    def tenant(self) -> int:
        return self._kept.tenant

    def __getitem__(self, key: str) -> int:
        return self.tenant()


class Descriptor:
    def __get__(self, net: Any, owner: type) -> int:
        return LOCAL.tenant


class Layer(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + LOCAL.tenant


class Settings:
    """Made by a call."""

    def __init__(self) -> None:
        self.tenant = LOCAL.tenant


def _twice(function: Callable[[], int]) -> Callable[[], int]:
    return functools.wraps(function)(lambda: 2 * function())


@_twice
@functools.wraps(torch.zeros)
@torch.no_grad()
def decorated() -> int:
    return LOCAL.tenant


def by_imports() -> int:
    from thread_tenants import by_name

    return by_name()


def deep() -> int:
    return deeper()


def deeper() -> int:
    return LOCAL.tenant


SLOTS, ASKED, NESTED = Slots(), Asked(), SimpleNamespace(inner=SimpleNamespace(local=LOCAL))
DICT, QUEUE, FUNCTIONS = {"local": LOCAL}, deque([LOCAL]), {"tenant": deeper}
LAYERS = [Layer()]

WAYS: dict[str, Callable[..., Any]] = {
    "helpers": lambda net: deep(),
    "decorators": lambda net: decorated(),
    "its number": lambda net: BY_THREAD.get(threading.get_ident(), 0),
    "its number by another name": lambda net: BY_THREAD.get(number_of_thread(), 0),
    "its object by another name": lambda net: who().name,
    "its task": lambda net: asyncio.current_task(),
    "a module's helper": lambda net: thread_tenants.by_name(),
    "an import": lambda net: by_imports(),
    "a class attribute": lambda net: net.local.tenant,
    "a descriptor": lambda net: net.described,
    "text": lambda net: getattr(net, "asked_by_text")(),  # noqa: B009
    "a dict": lambda net: DICT["local"].tenant,
    "a queue": lambda net: QUEUE[0].tenant,
    "a dict of functions": lambda net: FUNCTIONS["tenant"](),
    "slots": lambda net: SLOTS.local.tenant,
    "objects in objects": lambda net: NESTED.inner.local.tenant,
    "a method": lambda net: ASKED.tenant(),
    "an operator": lambda net: ASKED["tenant"],
    "an object that is made": lambda net: Settings().tenant,
    "a list in an attribute": lambda net: net.boxes[0].tenant,
    "an object in an attribute": lambda net: net.asked.tenant(),
    "a keyword of a partial": functools.partial(lambda net, local: local.tenant, local=LOCAL),
    "a hidden layer": lambda net: LAYERS[0](torch.zeros(1)),
}  # fmt: skip


class Net(nn.Module):
    local = LOCAL
    described = Descriptor()

    def __init__(self, way: Callable[..., Any]) -> None:
        super().__init__()
        self.way = way
        self.boxes = [LOCAL] if way is WAYS["a list in an attribute"] else []
        self.asked = Asked() if way is WAYS["an object in an attribute"] else None

    def asked_by_text(self) -> int:
        return deep()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.way(self)
        return y


@pytest.mark.parametrize("name", WAYS)
def test_it_is_seen(name: str) -> None:
    net = Net(WAYS[name])
    assert Reach(net, net).thread_state() is not None


def test_what_no_call_asks_for_is_none_of_its_state() -> None:
    class Client:
        def __init__(self) -> None:
            self.session = LOCAL

        def ask(self) -> int:
            return threading.get_ident()

    client = Client()

    class Quiet(nn.Module):
        local = LOCAL

        def __init__(self) -> None:
            super().__init__()
            self.client = client
            self.started_on = threading.get_ident()

        def fit(self) -> int:
            return self.local.tenant + client.ask()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.started_on if client is None else x

    net = Quiet()
    assert Reach(net, net).thread_state() is None


def test_helpers_of_torchs_and_transformers_models_have_none() -> None:
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9, bos_token_id=1, eos_token_id=1)
    layer = build(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    for net in (build(lambda: GPT2LMHeadModel(config)), layer):
        assert Reach(net, net).thread_state() is None


def test_rounds_and_long_chains_end() -> None:
    scope: dict[str, Any] = {"LOCAL": LOCAL}
    lines = [f"def f{i}(): return f{i + 1}()" for i in range(1500)]
    exec("\n".join([*lines, "def f1500(): return f0() + LOCAL.tenant"]), scope)
    ring: list[Any] = []
    ring.append(ring)
    scope["f0"].__kwdefaults__ = {"ring": ring}
    assert Reach(scope["f0"], None).thread_state() is not None
