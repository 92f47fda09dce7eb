"""Runs contenders side by side, one process each, passes interleaved, and keeps the best pass of each."""

import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.contenders import LABELS, YARDSTICKS
from benchmarks.harness.workloads import relative_difference

REPLY_TIMEOUT_S = 180


class ContenderFailed(RuntimeError):
    """A contender's process ended or gave no answer in time; holds the end of its error output."""


class Contender:
    """The parent's side of one `benchmarks.harness.contenders` process."""

    def __init__(self, workload: str, name: str, errors: Path) -> None:
        self.name = name
        self._errors = errors
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.contenders", workload, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors.open("w"),
            text=True,
            bufsize=1,
        )

    def reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # At most one reply is under way, so no line can sit unseen in the reader's buffer.
        ready, _, _ = select.select([self._process.stdout], [], [], REPLY_TIMEOUT_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            tail = "\n".join(self._errors.read_text(errors="replace").strip().splitlines()[-12:])
            reason = "ended" if ready else f"gave no answer in {REPLY_TIMEOUT_S} s"
            raise ContenderFailed(f"{self.name} {reason}:\n{tail}")
        return json.loads(line)

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        return self.reply()

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@dataclass
class Result:
    """One contender on one workload."""

    contender: str
    seconds_per_item: list[float] = field(default_factory=list)
    difference: float = float("nan")  # the largest max|d| / max|eager| over all items
    peak_rss_mb: float = float("nan")
    failure: str = ""

    @property
    def best(self) -> float:
        return min(self.seconds_per_item, default=float("nan"))


def _ignore(*_: object) -> None:
    pass


def compare(
    workload: str,
    names: list[str],
    rounds: int,
    *,
    on_step: Callable[[str], None] = _ignore,
    on_result: Callable[[Result, dict[str, Result]], None] = _ignore,
) -> dict[str, Result]:
    """Results by contender. The first of `names` must be "plain", whose outputs are the reference.

    `on_step` is told what is under way; `on_result` each contender's result as soon as it is complete, in order, and
    all results, of which the times are known by then.
    """
    results = {name: Result(name) for name in names}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        running: dict[str, Contender] = {}
        for name in names:
            running[name] = stack.enter_context(Contender(workload, name, Path(folder, f"{name}.err")))
        on_step("starting")
        for name in names:  # they import side by side; from here on only one is busy at a time
            with _noting_failure(results[name], running):
                running[name].reply()
        for name in list(running):
            on_step(f"warming up: {LABELS[name]}")
            with _noting_failure(results[name], running):
                running[name].ask("warm")
        for number in range(rounds):
            order = list(running)
            shift = number % max(len(order), 1)
            for name in order[shift:] + order[:shift]:  # nobody always follows the same neighbour
                on_step(f"round {number + 1} of {rounds}: {LABELS[name]}")
                with _noting_failure(results[name], running):
                    results[name].seconds_per_item.append(running[name].ask("pass")["seconds_per_item"])
        reference: list[Any] = []
        for name, result in results.items():
            if name in running:
                with _noting_failure(result, running):
                    result.peak_rss_mb = running[name].ask(f"save {folder}/{name}.pt")["peak_rss_mb"]
            if name == "plain":
                if result.failure:
                    raise ContenderFailed(result.failure)
                reference = torch.load(Path(folder, "plain.pt"))
            if not result.failure and name not in YARDSTICKS:
                outputs = torch.load(Path(folder, f"{name}.pt"))
                pairs = zip(outputs, reference, strict=True)
                result.difference = max(relative_difference(y, ref) for y, ref in pairs)
            on_result(result, results)
    return results


@contextmanager
def _noting_failure(result: Result, running: dict[str, Contender]) -> Iterator[None]:
    """Turns a contender's failure into a line of its result, and drops it from those still running."""
    try:
        yield
    except (ContenderFailed, BrokenPipeError) as error:
        result.failure = str(error)
        running.pop(result.contender, None)
