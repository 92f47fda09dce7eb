"""Keeps what torch.export does to the whole process on the thread that exports.

Tracing puts wrappers in place of nn.Module's methods and sets flags that modules ask for. Other threads go on calling
their models meanwhile, and must find everything as it is. (What a module has bound by `from torch.compiler import
is_compiling` is out of reach.)
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.export._trace
import torch.fx._symbolic_trace

_FLAGS = ("is_compiling", "is_exporting")


@contextmanager
def on_this_thread_only(*, strict: bool) -> Iterator[None]:
    """While this thread exports. Requires that no other thread does.

    strict: by Dynamo, which knows the flags' functions by identity: those must stay.
    """
    own = threading.get_ident()
    patcher: Any = torch.fx._symbolic_trace._Patcher
    patch_method = patcher.patch_method
    flags = {} if strict else {name: getattr(torch.compiler, name) for name in _FLAGS}
    trace: Any = torch.export._trace

    def patch_for_us(self: Any, cls: type, name: str, new_fn: Callable[..., Any], deduplicate: bool = True) -> None:
        patch_method(self, cls, name, _choose(own, new_fn, getattr(cls, name)), deduplicate)

    patcher.patch_method = patch_for_us
    for name, function in flags.items():
        setattr(torch.compiler, name, _choose(own, function, lambda: False))
    trace.print = lambda *args, **kwargs: None  # the graph so far of an export that failed, hundreds of lines of it
    try:
        yield
    finally:
        patcher.patch_method = patch_method
        for name, function in flags.items():
            setattr(torch.compiler, name, function)
        del trace.print


def _choose(own: int, here: Callable[..., Any], elsewhere: Callable[..., Any]) -> Callable[..., Any]:
    """`here` on the thread `own`, `elsewhere` on all others."""

    @functools.wraps(here)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (here if threading.get_ident() == own else elsewhere)(*args, **kwargs)

    return chosen
