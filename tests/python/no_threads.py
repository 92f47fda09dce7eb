"""A process that may start no more threads, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

_ATTRIBUTES = 64  # bytes are enough for a pthread_attr_t
_TOO_LARGE = 1 << 47  # bytes of a stack: more than a process can address


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """Neither Python nor the extension can start one: a new thread's stack would be larger than any memory."""
    libc = ctypes.CDLL(None)
    before, attributes = ctypes.create_string_buffer(_ATTRIBUTES), ctypes.create_string_buffer(_ATTRIBUTES)
    assert libc.pthread_getattr_default_np(before) == 0
    assert libc.pthread_getattr_default_np(attributes) == 0
    assert libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(_TOO_LARGE)) == 0
    assert libc.pthread_setattr_default_np(attributes) == 0
    try:
        yield
    finally:
        assert libc.pthread_setattr_default_np(before) == 0
