"""Modules whose weights are made by their first call (torch.nn.LazyLinear and its like)."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from torchpool.contract import refusal
from torchpool.contract.probe import modules_of
from torchpool.runtime import Child, in_child


class LazyWeights:
    """Has one call make them, before anything is learned of the module. Thread-safe."""

    def __init__(self, target: Callable[..., Any], module: nn.Module | None) -> None:
        """`target` is the module, a method of it, or a function whose code has modules at hand."""
        roots = modules_of(target) if module is None else [module]
        self._roots = [root for root in roots if not isinstance(root, torch.jit.ScriptModule)]
        self._made = False

    def missing(self) -> bool:
        """Whether some are not made yet; what the first call leaves as it is, the target is not known to run."""
        return not self._made and bool(self._missing())

    def make(self, run: Callable[[], object]) -> None:
        """Makes those that are missing by a run of the target, of which nothing else stays. Raises Refused with what it
        raises."""
        parts = self._missing()
        if not parts:
            self._made = True
            return
        # Other predictors may have the same parts.
        with _locked(parts), torch.inference_mode(False):
            if not self._missing():
                return  # another thread has made them
            try:
                contextvars.copy_context().run(run)
            except Exception as error:
                raise refusal.Refused(error) from None
            self._made = True

    def _missing(self) -> list[nn.Module]:
        """The parts that have such weights, in an order in which all threads lock them."""
        parts = {id(part): part for root in self._roots for part in root.modules() if _is_lazy(part)}
        return [parts[key] for key in sorted(parts)]


def has_lazy_weights(module: nn.Module) -> bool:
    """Whether its first call is yet to make some of its weights."""
    return any(_is_lazy(part) for part in module.modules() if not isinstance(part, torch.jit.ScriptModule))


def _is_lazy(part: nn.Module) -> bool:
    """Whether it has weights to make, or is about to become what it will be with them."""
    if "_initialize_hook" in vars(part):
        return True
    own = itertools.chain(part.parameters(recurse=False), part.buffers(recurse=False))
    return any(nn.parameter.is_lazy(tensor) for tensor in own)


class _Locks:
    """One for each part, while somebody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: weakref.WeakValueDictionary[int, _Held] = weakref.WeakValueDictionary()

    def of(self, part: nn.Module) -> _Held:
        with self._lock:
            held = self._of.get(id(part))
            if held is None:
                held = self._of[id(part)] = _Held()
            return held


class _Held:
    """A lock that can be referred to weakly."""

    def __init__(self) -> None:
        self.lock = threading.RLock()


_locks = _Locks()


def _start_afresh() -> None:
    # A thread that is gone may hold some.
    global _locks
    _locks = _Locks()


in_child(Child.PREDICTORS, _start_afresh)


@contextlib.contextmanager
def _locked(parts: list[nn.Module]) -> Iterator[None]:
    held = [_locks.of(part) for part in parts]
    with contextlib.ExitStack() as stack:
        for one in held:
            stack.enter_context(one.lock)
        yield
