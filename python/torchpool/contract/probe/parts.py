"""Compares tensors that are no dense arrays, for which torch.equal does not work: sparse, quantised and others."""

from __future__ import annotations

import torch

_COMPRESSED_ROWS = (torch.sparse_csr, torch.sparse_bsr)
_COMPRESSED = (*_COMPRESSED_ROWS, torch.sparse_csc, torch.sparse_bsc)


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether it is a plain array of numbers."""
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_nested


def same_parts(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of any layouts hold the same, NaN being NaN; False where that cannot be told."""
    if one.layout != other.layout or one.dtype != other.dtype or one.is_nested != other.is_nested:
        return False
    if not one.is_nested and one.shape != other.shape:
        return False
    parts, others = _parts(one), _parts(other)
    return len(parts) == len(others) > 0 and all(map(_equal, parts, others))


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Dense tensors that make it up: a sparse one need not fit into memory as a dense one."""
    if tensor.is_nested:
        return list(tensor.unbind())
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in _COMPRESSED:
        if tensor.layout in _COMPRESSED_ROWS:
            return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    if tensor.layout is torch._mkldnn:  # type: ignore[attr-defined]
        return [tensor.to_dense()]
    return [tensor] if tensor.layout is torch.strided else []


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if torch.equal(one, other):
        return True
    if not (one.is_floating_point() or one.is_complex()):
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
