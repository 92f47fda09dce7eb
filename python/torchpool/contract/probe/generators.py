"""Sees whether random numbers were drawn, by whichever thread: all generators here belong to the whole process."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch

from torchpool import _core

_MORE_RUNS = 2
_MOST_THREADS = 32  # whose times are read


def torch_state() -> list[torch.Tensor]:
    """Of torch's generators: the CPU's, and those of CUDA when in use."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if _cuda_in_use() else [])]


def put_torch_back(state: list[torch.Tensor]) -> None:
    """To what `torch_state` gave."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])


def torch_moved(before: list[torch.Tensor]) -> bool:
    """Whether anybody has drawn from torch's generators since."""
    return any(not torch.equal(a, b) for a, b in zip(before, torch_state(), strict=False))


class PlainGenerators:
    """Python's and numpy's generators as they were: which thread draws from them cannot be seen."""

    def __init__(self) -> None:
        self._python = random.getstate()
        numpys = sys.modules.get("numpy.random")  # to import it takes 90 ms; who draws from it has done so
        self._numpy: Any = numpys.get_state() if numpys else None
        self._others = Others()

    def moved_by(self, run: Callable[[], object]) -> str | None:
        """Whose numbers the runs draw of which one was just made; None where they draw none.

        Others may draw, too: beside threads that did not rest two more runs are made, and the generator must have moved
        in each.
        What was drawn is put back where nobody else can have drawn.
        """
        whose = self.moved()
        for _ in range(0 if self._others.rested() else _MORE_RUNS):
            if whose is None:
                return None
            before = PlainGenerators()
            run()
            whose = before.moved()
        if whose is not None and self._others.rested():
            self._put_back()
        return whose

    def moved(self) -> str | None:
        """Whose numbers have been drawn since, by any thread."""
        if random.getstate() != self._python:
            return "Python's"
        if self._numpy is not None:
            now = sys.modules["numpy.random"].get_state()
            if now[2:] != self._numpy[2:] or (now[1] != self._numpy[1]).any():
                return "numpy's"
        return None

    def _put_back(self) -> None:
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy.random"].set_state(self._numpy)


class Others:
    """The other threads that can run Python code, as they are."""

    def __init__(self) -> None:
        self._times = _times()

    def rested(self) -> bool:
        """Whether it is known that none of them has run since, so that none can have drawn."""
        return self._times is not None and _times() == self._times


def _times() -> dict[int, str] | None:
    """For how long each has had a processor, by the kernel's number; None where that cannot be told."""
    if alone():
        return {}
    numbers = {thread.ident: thread.native_id for thread in threading.enumerate()}
    idents = _core.other_python_threads()
    if len(idents) > _MOST_THREADS:
        return None
    found: dict[int, str] = {}
    for ident in idents:
        number = numbers.get(ident)
        if number is None:  # a thread that Python did not start
            return None
        try:
            with open(f"/proc/{os.getpid()}/task/{number}/schedstat") as file:
                found[number] = file.read().partition(" ")[0]
        except OSError:
            return None
    return found


def alone() -> bool:
    """Whether no other thread can run Python code. Only the calling one could start another."""
    return not _core.other_python_threads()


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
