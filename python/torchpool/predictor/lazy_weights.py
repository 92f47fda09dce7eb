"""Modules whose weights are made by their first call (torch.nn.LazyLinear and its like)."""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import Callable

import torch
from torch import nn

from torchpool.contract import refusal


class LazyWeights:
    """Has one call make them, before anything is learned of the module. Thread-safe."""

    def __init__(self, module: nn.Module | None) -> None:
        self._module = None if isinstance(module, torch.jit.ScriptModule) else module
        self._making = threading.RLock()

    def missing(self) -> bool:
        """Whether some are not made yet."""
        if self._module is None:
            return False
        tensors = itertools.chain(self._module.parameters(), self._module.buffers())
        return any(nn.parameter.is_lazy(tensor) for tensor in tensors)

    def make(self, run: Callable[[], object]) -> None:
        """Makes those that are missing by a run of the module, of which nothing else stays. Raises Refused with what it
        raises."""
        if not self.missing():
            return
        with self._making, torch.inference_mode(False):
            if not self.missing():
                return  # another thread has made them
            try:
                contextvars.copy_context().run(run)
            except Exception as error:
                raise refusal.Refused(error) from None
