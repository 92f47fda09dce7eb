"""What the tests share: small models, a gate that holds a worker, and the comparison with eager."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import interpreters
import torch
from benchmarks.harness.models import LSTMClassifier as LSTMClassifier
from benchmarks.harness.models import SimpleCNN as SimpleCNN
from benchmarks.harness.models import build as build
from torch import nn

import torchpool

# Without these instructions torch has neither bfloat16 LSTMs nor packed bfloat16 weights.
HAS_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()

HANG = 60.0  # seconds that nothing here should take; only a hang does
MARK = 12345.0  # GateModule holds its worker for a row that has it
POISON = 54321.0  # MarkerModule raises for a row that has it


class Poisoned(ValueError):
    """A ValueError that can be referred to weakly."""


class Gate:
    """Holds whoever passes until it is opened, and tells that somebody came."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._entered = threading.Semaphore(0)
        self.seen: list[float] = []  # the first value of each row that the model was run on
        self.watch: Callable[[torch.Tensor], object] = lambda x: None  # called with each batch, in the model

    def pass_through(self) -> None:
        self._entered.release()
        assert self._opened.wait(HANG), "nobody opened the gate"

    def wait_entered(self, times: int = 1) -> None:
        for _ in range(times):
            assert self._entered.acquire(timeout=HANG), "nobody came to the gate"

    def open(self) -> None:
        self._opened.set()


class GateModule(nn.Module):
    """A linear layer, 4 to 3, that holds its worker at the gate when a row has MARK and raises when one has POISON."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.gate = Gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.gate.seen.extend(x[:, 0].tolist())
        self.gate.watch(x)
        if bool((x == MARK).any()):
            self.gate.pass_through()
        if bool((x == POISON).any()):
            raise Poisoned("a poisoned row")
        return self.linear(x)


class MarkerModule(nn.Module):
    """A linear layer, 4 to 3, that raises ValueError when a row has POISON."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x == POISON).any()):
            raise Poisoned("a poisoned row")
        return self.linear(x)


class Counter(nn.Module):
    """Has state: counts its calls in an attribute, so that it is another module after each."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class Held:
    """A predictor with one worker, and the gate of its model, which is run by Python."""

    def __init__(self, runtime: torchpool.Runtime | None = None, **options: Any) -> None:
        self.model = build(GateModule)
        assert isinstance(self.model, GateModule)
        self.gate = self.model.gate
        self.runtime = runtime or torchpool.Runtime(1)
        self.predict = torchpool.wrap(
            self.model, example=row(0), backend="python", prove="trust", runtime=self.runtime, **options
        )
        self.gate.seen.clear()

    def hold(self, predict: Any = None) -> torchpool.predictor.Future:
        """A call that occupies the worker from now until the gate is opened."""
        future = (predict or self.predict).submit(row(MARK))
        self.gate.wait_entered()
        return future

    def release(self) -> None:
        self.gate.open()
        self.runtime.close()


def row(value: float = 0.0, *, rows: int = 1) -> torch.Tensor:
    """An input of GateModule and MarkerModule whose rows start with `value`."""
    x = torch.full((rows, 4), 0.5)
    x[:, 0] = value
    return x


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers that leave torch's global state alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draws(count: int, *shape: int) -> list[torch.Tensor]:
    return [draw(*shape, seed=seed) for seed in range(count)]


def eager(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The oracle: the model's own call."""
    with torch.no_grad():
        return model(*args, **kwargs)


def assert_close(result: Any, expected: Any) -> None:
    """Same types and shapes, and max|difference| <= 1e-5 * max|expected| for each tensor."""
    assert type(result) is type(expected), f"{type(result).__name__} is not {type(expected).__name__}"
    if isinstance(expected, torch.Tensor):
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        assert not result.requires_grad
        if expected.numel():
            difference = (result.double() - expected.double()).abs().max()
            assert difference <= 1e-5 * expected.double().abs().max(), f"differs by {difference}"
    elif isinstance(expected, Mapping):
        assert list(result) == list(expected)
        for key in expected:
            assert_close(result[key], expected[key])
    elif isinstance(expected, tuple | list):
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            assert_close(one, other)
    else:
        assert result == expected


def assert_all_close(results: Iterable[Any], expected: Iterable[Any]) -> None:
    for one, other in zip(results, expected, strict=True):
        assert_close(one, other)


def close_and_free(predict: torchpool.Predictor) -> None:
    """Closes it, and drops what its workers could not drop without the interpreter's lock; the next call does that."""
    predict.close()
    torchpool.wrap(build(MarkerModule))(row())


def run_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """The results of work(0), work(1), ... on threads of their own that start together; raises the first error."""
    results: list[Any] = [None] * count
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            start.wait(HANG)
            results[number] = work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results


def run_python(source: str, *, timeout: float = HANG, fresh: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs a program that may import this module in an interpreter of its own; one that hangs shows its stacks.

    Most have torch imported before the program begins; `fresh` is for those that are to do so themselves.
    """
    # A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C.
    first = "import signal, sys, warnings; signal.signal(signal.SIGINT, signal.default_int_handler); "
    first += "warnings.filterwarnings('ignore', 'grad mode is on', UserWarning); "
    program = f"{first}sys.path[:0] = {[p for p in sys.path if p]!r}\n{textwrap.dedent(source)}"
    run = interpreters.run_fresh if fresh or interpreters.fresh_only else interpreters.run_warm
    return run(program, timeout)


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}"
    assert done.stderr == "", done.stderr
