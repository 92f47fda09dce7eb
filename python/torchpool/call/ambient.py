"""The state of the thread that made a call, for the thread that hands the call over later."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable
from typing import TypeVar

import torch

_DEVICES = ("cpu", "cuda")

T = TypeVar("T")


def _grad_and_autocast() -> tuple[object, ...]:
    state: list[object] = [torch.is_grad_enabled()]
    for device in _DEVICES:
        state += (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
    return tuple(state)


def must_stay_here() -> bool:
    """Whether torch modes are active (`with torch.device(...)`, a default device, a dispatch mode). No other thread has
    the caller's modes, so a predictor runs such a call at once on the caller's thread."""
    return bool(torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack())


class Ambient:
    """Grad mode, autocast and context variables of the creating thread: the state that a predictor reads at a call."""

    __slots__ = ("_context", "_state")

    def __init__(self) -> None:
        self._state = _grad_and_autocast()
        self._context = contextvars.copy_context()

    def is_here(self) -> bool:
        """Whether the calling thread is in this state already. The check takes about a microsecond."""
        if self._state != _grad_and_autocast():
            return False
        here = contextvars.copy_context()
        if not here and not self._context:
            return True
        try:
            return bool(here == self._context)
        except Exception:  # values that cannot be compared, such as arrays
            return False

    def run(self, work: Callable[[], T]) -> T:
        """work(), with the calling thread in this state meanwhile."""
        if self.is_here():
            return work()
        grad, *autocast = self._state
        here = _grad_and_autocast()[1:]
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(bool(grad)))
            for index, device in enumerate(_DEVICES):
                enabled, dtype = autocast[2 * index : 2 * index + 2]
                if (enabled, dtype) != here[2 * index : 2 * index + 2]:
                    assert isinstance(dtype, torch.dtype)
                    stack.enter_context(torch.autocast(device, dtype=dtype, enabled=bool(enabled)))
            return self._context.copy().run(work)  # a copy: one context cannot be entered twice at a time
