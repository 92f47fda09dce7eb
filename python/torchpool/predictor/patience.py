"""A forked child that may soon be gone: it learns of a model once that pays."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any, Protocol

import torch

from torchpool.call import tensors

_SECONDS = 1.0  # of calls by the module itself, before they are learned from: learning and capturing take as long


class Opened(Protocol):
    """A predictor."""

    _model: Any

    def _open_core(self) -> Any:
        """Who answers calls, from now on in any case."""


class Patience:
    """Answers the calls of a child's only thread by the module itself, for as long as they have not taken a second.

    A pool's process that makes some calls ends sooner than it would have learned from them. With other threads there
    is more to do than to call the module: these are served as ever.
    """

    def __init__(self, predictor: Opened) -> None:
        self._predictor = weakref.ref(predictor)  # which holds this
        self._left = _SECONDS

    def lasts(self) -> bool:
        """Whether a call is answered here now."""
        return self._left > 0 and threading.active_count() == 1

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], priority: int, deadline: float | None) -> Any:
        """As the extension's."""
        predictor = self._predictor()
        assert predictor is not None
        refused = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in tensors((args, kwargs)))
        if deadline is not None or refused:
            return predictor._open_core().call(args, kwargs, priority, deadline)
        start = time.monotonic()
        try:
            with torch.no_grad():
                return predictor._model(*args, **kwargs)
        finally:
            self._left -= time.monotonic() - start
