"""Intra-op threads of the calling thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from torchpool import _core


@contextlib.contextmanager
def one_intra_op_thread() -> Iterator[None]:
    """Runs torch's operators on the calling thread alone, and puts its own setting back. On a busy machine the threads
    of one operator wait for each other for milliseconds: a MiniLM's call of 12 ms then takes 500."""
    before = torch.get_num_threads()
    _core.set_intra_op_threads(1)
    try:
        yield
    finally:
        _core.set_intra_op_threads(before)
