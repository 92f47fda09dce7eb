"""What the tests of the invariant mode share: bits, and rows beside others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Result = Tensor | tuple[Tensor, ...]


def bits(tensor: Tensor) -> list[int]:
    """Of all elements, as bytes: zeros have signs, and NaN has payloads."""
    return tensor.contiguous().view(-1).view(torch.uint8).tolist()


def differing(found: Iterable[Tensor], wanted: Iterable[Tensor]) -> int:
    """How many of the tensors have other bits."""
    return sum(
        one.shape != other.shape or one.dtype != other.dtype or bits(one) != bits(other)
        for one, other in zip(found, wanted, strict=True)
    )


def rows_that_differ(op: Callable[[Tensor], Tensor], x: Tensor, threads: int = 1) -> int:
    """How many rows of op(x) have other bits than op gives for that row alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = op(x)
        return differing(whole.split(1), [op(x[row : row + 1].clone()) for row in range(len(x))])
    finally:
        torch.set_num_threads(before)
