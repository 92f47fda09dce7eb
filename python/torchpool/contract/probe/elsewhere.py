"""Runs the model once on a thread of its own: what a model reads from its thread is not there."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from torchpool.contract.probe.run import Leaves, Outcome, Runner, Unsafe, gap_between
from torchpool.contract.refusal import brief

T = TypeVar("T")
# How long it may take: what it waits for may be held by the thread that waits for it here.
_PATIENCE_SECONDS = 5.0
_PATIENCE_TIMES = 20


class NotThere(Exception):
    """There is no such run, whatever the model does."""


class Stuck(Exception):
    """The run does not end, though the same ended on the calling thread."""


def on_fresh_thread(work: Callable[[], T], usual_seconds: float) -> T:
    """work() on a thread that has run nothing yet, under the caller's context variables and autocast.

    Raises what the work raises; NotThere where no thread can be had; Stuck after more than 20 times the usual seconds.
    """
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    context = contextvars.copy_context()
    outcome: list[Any] = []
    done = threading.Event()

    def run() -> None:
        try:
            with torch.autocast("cpu", dtype=autocast[1], enabled=autocast[0]):
                outcome[:] = [context.run(work), None]
        except BaseException as error:
            outcome[:] = [None, error]
        finally:
            done.set()

    thread = threading.Thread(target=run, name="torchpool-probe", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise NotThere(str(error)) from error
    if not done.wait(_PATIENCE_SECONDS + _PATIENCE_TIMES * usual_seconds):
        raise Stuck(f"it did not end within {_PATIENCE_SECONDS + _PATIENCE_TIMES * usual_seconds:.3g} s")
    thread.join()
    result, raised = outcome
    outcome.clear()  # an exception must not be held by the frames that it holds
    if raised is not None:
        raise raised
    return result  # type: ignore[no-any-return]


class Elsewhere:
    """Makes a call once more on another thread."""

    def __init__(self, runner: Runner, allowed: bool) -> None:
        self._runner, self._allowed = runner, allowed
        self.wrong: str | None = None
        """What became of a call there that was fine here, in words."""

    def again(self, sample: Leaves, first: Outcome) -> Outcome:
        """The same call after others, there; here, where it is not what it was, or cannot be made there."""
        if self._allowed and not self.wrong:
            try:
                there = on_fresh_thread(lambda: self._runner(sample, last=True), first.seconds)
            except NotThere:
                self._allowed = False
            except Unsafe:
                raise
            except Exception as error:
                how = "it is stuck" if isinstance(error, Stuck) else "it raises"
                self.wrong = f"on another thread {how} ({brief(error)})"
            else:
                gap, name = gap_between(first, there, self._runner)
                if not gap:
                    return there
                self.wrong = f"output {name!r} of the same call differs by {gap:.3g} on another thread"
        return self._runner(sample, last=True)
