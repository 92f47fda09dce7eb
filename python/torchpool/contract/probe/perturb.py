"""Makes other valid inputs out of the samples: rows taken, joined, varied, disturbed, cut and padded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

Leaves = list[torch.Tensor]
Places = Sequence[tuple[int, int, str]]
"""Ragged dims as (leaf, dim of a call's own tensor, symbol)."""


@dataclass(frozen=True)
class Layout:
    """Where the rows of a call are: a dim per leaf (None: shared by all rows), or stacked on a new dim 0."""

    dims: tuple[int | None, ...]
    stacked: bool = False

    @property
    def batched(self) -> list[int]:
        """Indices of the leaves that have rows."""
        return [i for i, dim in enumerate(self.dims) if dim is not None]

    def rows(self, call: Leaves) -> int:
        """Rows in one call."""
        first = self.batched[0]
        return 1 if self.stacked else call[first].shape[self.dims[first] or 0]

    def row(self, call: Leaves, index: int) -> Leaves:
        """A call that holds only this row."""
        if self.stacked:
            return list(call)
        return [leaf if dim is None else leaf.narrow(dim, index, 1) for leaf, dim in zip(call, self.dims, strict=True)]

    def join(self, calls: Sequence[Leaves]) -> Leaves:
        """One merged call; shared leaves are the first call's."""
        merged = []
        for i, dim in enumerate(self.dims):
            parts = [call[i] for call in calls]
            if dim is None:
                merged.append(parts[0])
            else:
                merged.append(torch.stack(parts) if self.stacked else torch.cat(parts, dim))
        return merged


def is_number(tensor: torch.Tensor) -> bool:
    """Floating or complex: may be scaled. Others are only permuted, so that they stay valid."""
    return tensor.is_floating_point() or tensor.is_complex()


def is_mask(name: str, tensor: torch.Tensor) -> bool:
    """An input that marks positions: called a mask, and bool or only 0 and 1."""
    if "mask" not in name.lower():
        return False
    return tensor.dtype == torch.bool or bool(((tensor == 0) | (tensor == 1)).all())


def same_leaves(a: Leaves, b: Leaves) -> bool:
    """Equal shapes and contents."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _roll(tensor: torch.Tensor, by: int) -> torch.Tensor:
    """Rolled along its longest dim, the last of equals: keeps columns with a meaning of their own apart."""
    if tensor.ndim == 0 or tensor.numel() < 2:
        return tensor
    sizes = list(tensor.shape)
    dim = max(range(tensor.ndim), key=lambda d: (sizes[d], d))
    return torch.roll(tensor, 1 + (by - 1) % (sizes[dim] - 1) if sizes[dim] > 2 else 1, dim)


def _permute(tensor: torch.Tensor, by: int, mask: bool) -> torch.Tensor:
    rolled = _roll(tensor, by)
    if mask or tensor.dtype == torch.bool or tensor.numel() == 0 or not torch.equal(rolled, tensor):
        return rolled
    # Every entry is the same: a smaller one is as valid an index, where any is (the run alone tells).
    return torch.where(tensor > 1, torch.div(tensor, by + 1, rounding_mode="floor"), tensor)


def vary(names: Sequence[str], layout: Layout, call: Leaves, k: int, numbers: bool, others: bool) -> Leaves:
    """The k-th variation (k >= 1) of a one-row call; `numbers` and `others` say which leaves vary."""
    out = list(call)
    for i in layout.batched:
        leaf = call[i]
        mask = "mask" in names[i].lower()
        if is_number(leaf) and not mask:
            if numbers:
                moved = _roll(leaf, k) * (0.7, 1.1, 0.45, 1.3)[k % 4]
                out[i] = moved if bool(leaf.any()) else leaf + 0.3 * k
        elif others:
            out[i] = _permute(leaf, k, mask)
    return out


def disturb(names: Sequence[str], layout: Layout, call: Leaves, factor: float, others: bool) -> Leaves:
    """The call with its floating inputs times `factor` (NaN allowed), and the rest permuted if `others`."""
    out = list(call)
    for i in layout.batched:
        leaf = call[i]
        mask = "mask" in names[i].lower()
        if is_number(leaf) and not mask:
            if math.isnan(factor) or not bool(leaf.any()):
                out[i] = torch.full_like(leaf, factor)
            else:
                out[i] = leaf * factor
        elif others:
            out[i] = _permute(leaf, 2 if factor < 0 else 1, mask)
    return out


def cut(call: Leaves, places: Places, lengths: Mapping[str, int]) -> Leaves:
    """The call with its ragged dims cut on the right to the given lengths."""
    out = list(call)
    for leaf, dim, symbol in places:
        if symbol in lengths:
            out[leaf] = out[leaf].narrow(dim, 0, lengths[symbol])
    return out


def pad_right(
    call: Leaves, places: Places, lengths: Mapping[str, int], values: Mapping[int, float | int | bool]
) -> Leaves:
    """The call with its ragged dims grown on the right to the given lengths, filled with the leaf's value."""
    out = list(call)
    for leaf, dim, symbol in places:
        old = out[leaf]
        if symbol in lengths and lengths[symbol] > old.shape[dim]:
            shape = list(old.shape)
            shape[dim] = lengths[symbol] - old.shape[dim]
            out[leaf] = torch.cat([old, old.new_full(shape, values[leaf])], dim)
    return out
