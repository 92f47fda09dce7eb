"""What the code of a model's calls can write and read, as far as names lead."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest
import torch
from torch import nn

from torchpool.contract.reach import Reach

LOCAL = threading.local()


def mark(net: Any) -> None:
    net.marked = True
    mark_more(net)


def mark_more(net: Any) -> None:
    net.marked_more = True


def mark_unseen(net: Any) -> None:
    net.marked_unseen = True


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.length = x.shape[0]
        return x

    def widen(self, by: int) -> None:
        self.width = by

    def never(self) -> None:
        self.nowhere = 1


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen, self.sizes, self.names = Inner(), 0, {}, []
        self.scale, self.read = 1.0, {"a": 1}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        self.sizes[len(x)] = 1
        self.inner.widen(3)
        mark(self)
        return self.inner(x) * self.scale

    def set_scale(self, scale: float) -> None:
        self.scale = scale


class ByName(Outer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        setattr(self, f"seen_{len(x)}", 1)
        return x


class ByText(Outer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.register_buffer("table", x)
        return x


def reach_of(module: nn.Module) -> Reach:
    return Reach(module, module)


@pytest.mark.parametrize("name", ["seen", "length", "width", "marked", "marked_more"])
def test_what_a_call_may_bind(name: str) -> None:
    assert reach_of(Outer()).writes(name)


@pytest.mark.parametrize("name", ["scale", "nowhere", "read", "inner", "forward"])
def test_what_no_call_binds(name: str) -> None:
    assert not reach_of(Outer()).writes(name)


def test_collections_that_a_call_may_change() -> None:
    reach = reach_of(Outer())
    assert reach.changes_items("sizes") and not reach.changes_items("read")


def test_code_that_binds_by_text() -> None:
    assert reach_of(ByName()).writes("anything")
    reach = reach_of(ByText())
    assert reach.writes("table") and not reach.writes("scale")


def test_hooks_and_functions_among_attributes_are_code_of_the_call() -> None:
    model = Outer()
    model.register_forward_hook(lambda module, inputs, output: setattr(module, "hooked", 1))
    assert reach_of(model).writes("hooked")
    other = nn.Sequential(Outer())
    other[0].act = functools.partial(mark_unseen)  # type: ignore[assignment]
    assert not reach_of(other).writes("marked_unseen"), "nothing calls it"


def test_a_callable_object_and_what_it_keeps() -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.model, self.local = Outer(), LOCAL

        def run(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.model(x)
            return y

    pipeline = Pipeline()
    reach = Reach(pipeline.run, None)
    assert reach.writes("length")
    assert reach.thread_state() == "attribute 'local' of Pipeline is a threading.local"


def test_code_with_more_than_256_names() -> None:
    lines = [f"    self.before_{i} = self.read_{i}" for i in range(300)]
    scope: dict[str, Any] = {"nn": nn}
    exec("class Long(nn.Module):\n  def forward(self, x):\n" + "\n".join(lines) + "\n    return x\n", scope)
    reach = reach_of(scope["Long"]())
    assert reach.writes("before_299") and not reach.writes("read_299")
