"""How the caller of a predictor gets to see that a call is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torchpool.contract import refusal

P = ParamSpec("P")
T = TypeVar("T")


def tells_refusals(answer: Callable[P, T]) -> Callable[P, T]:
    """An answer to the extension. What is refused in it is raised as the caller of the predictor is to see it: without
    any frame of this package, not even that of the answer, since they hold samples, which are other callers' inputs."""

    @functools.wraps(answer)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return answer(*args, **kwargs)
        except refusal.Refused as refused:
            error = refused.error
        shown = refusal.without_our_frames(error.__traceback__)
        try:
            raise error
        except Exception:
            error.with_traceback(shown)
            raise  # which adds no frame, as the first one did
        finally:
            del error

    return told
