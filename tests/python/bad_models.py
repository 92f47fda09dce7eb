"""Models that fail or behave oddly in one way each, and a worker that is held so that calls share a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from support import HANG, MARK, GateModule, assert_close, build, eager, row
from torch import nn

import torchpool
from torchpool.call import tree

POISON = 54321.0  # what no ordinary input here holds


class Embedder(nn.Module):
    """Token ids [B, T] below 20 to [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.embed(ids).mean(1))


class Raiser(nn.Module):
    """A linear layer, 4 to 3, that raises `error()` when a row starts with POISON."""

    def __init__(self, error: Callable[[], BaseException] = lambda: ValueError("a poisoned row")) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x[:, 0] == POISON).any()):
            raise self.error()
        return self.linear(x)


class ScriptRaiser(nn.Module):
    """The same, fit for torch.jit.script."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x[:, 0] == 54321.0).any()):
            raise ValueError("a poisoned row")
        return self.linear(x)


class Masked(nn.Module):
    """Mean over the positions [B, T, 4] that the mask [B, T] marks, through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = mask.unsqueeze(-1).to(x.dtype)
        return self.linear((x * weights).sum(1) / weights.sum(1).clamp(min=1))


class Switched(nn.Module):
    """A linear layer whose other arguments change what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, how: Any = None, scale: float = 1.0) -> torch.Tensor:
        y = self.linear(x) * scale
        if how is None or how is False:
            return y
        if isinstance(how, torch.dtype):
            return y.to(how)
        if isinstance(how, str):
            return {"relu": torch.relu, "tanh": torch.tanh}[how](y)
        return -y if how is True else y + float(getattr(how, "value", how))


class Counter(nn.Module):
    """Adds the number of the call to its input; the count is a buffer."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x + self.count


class Noted(nn.Module):
    """The module inside, with `note(rows)` called at each run; not a list of its own, which probing would put back."""

    def __init__(self, inner: nn.Module, note: Callable[[int], None]) -> None:
        super().__init__()
        self.inner = inner
        self.note = note

    def forward(self, x: torch.Tensor) -> Any:
        self.note(len(x))
        return self.inner(x)


@contextlib.contextmanager
def busy(runtime: torchpool.Runtime) -> Iterator[None]:
    """Holds the one worker of a runtime's interpreter lane, so that what is submitted meanwhile waits together."""
    assert runtime.workers == 1
    blocker = build(GateModule)  # a batch: a call that runs alone would leave the worker while it waits
    assert isinstance(blocker, GateModule)
    predict = torchpool.wrap(blocker, example=row(), backend="python", prove="trust", runtime=runtime)
    future = predict.submit(row(MARK))
    blocker.gate.wait_entered()
    try:
        yield
    finally:
        blocker.gate.open()
    future.result(HANG)


def together(predict: Any, runtime: torchpool.Runtime, calls: list[tuple[Any, ...]]) -> list[Any]:
    """The outcomes of calls that waited together: results, or exceptions."""
    with busy(runtime):
        futures = [predict.submit(*call) for call in calls]
    return [future.exception(HANG) or future.result() for future in futures]


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call gives: its result, or the exception that it raises."""
    try:
        return eager(function, *args, **kwargs)
    except Exception as error:
        return error


def assert_same(result: Any, expected: Any) -> None:
    """Equal types and structure, tensors within the tolerance, everything else equal."""
    assert type(result) is type(expected), f"{type(result)} is not {type(expected)}"
    leaves, spec = tree.flatten(result)
    wanted, wanted_spec = tree.flatten(expected)
    assert spec == wanted_spec, f"{spec} is not {wanted_spec}"
    for leaf, want in zip(leaves, wanted, strict=True):
        parts = map(torch.view_as_real, (leaf, want)) if want.is_complex() else (leaf, want)
        assert_close(*parts)


def batches_together(predict: torchpool.Predictor, runtime: torchpool.Runtime, calls: list[tuple[Any, ...]]) -> int:
    """Runs the calls together, compares each with eager, and tells in how many batches they ran."""
    model, before = predict.model, predict.stats()["batch_rows"]["count"]
    for call, result in zip(calls, together(predict, runtime, calls), strict=True):
        assert_same(result, outcome(model, *call))
    return int(predict.stats()["batch_rows"]["count"] - before)
