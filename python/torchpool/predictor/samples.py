"""Calls that are kept as samples, to prove by what is learned of their kind."""

from __future__ import annotations

import torch

from torchpool.call import Call
from torchpool.contract import Contract, Leaves

_MOST_ROWS = 8  # of each
_MOST_BYTES = 4 << 20  # of those of a kind, but for one row that is larger


def copies(leaves: Leaves) -> Leaves:
    """Of a call's tensors, detached."""
    return [leaf.detach().clone() for leaf in leaves]


def to_keep(samples: list[Leaves], contract: Contract) -> list[Leaves]:
    """What may be kept of the samples of a kind: the predictor holds their memory for as long as it lives. The first of
    them, and of the others those that fit."""
    kept: list[Leaves] = []
    left = _MOST_BYTES
    for sample in samples:
        few = _few_rows(sample, contract, max(left, 0))
        size = sum(leaf.nbytes for leaf in few)
        if kept and size > left:
            continue
        left -= size
        kept.append(few)
    return kept


def _few_rows(sample: Leaves, contract: Contract, most_bytes: int) -> Leaves:
    places = [None if spec.stacked else spec.batch_dim for spec in contract.inputs]
    row_bytes = sum(
        leaf.nbytes // max(1, leaf.shape[dim]) for leaf, dim in zip(sample, places, strict=True) if dim is not None
    )
    most = min(_MOST_ROWS, max(1, most_bytes // max(1, row_bytes)))

    def few(leaf: torch.Tensor, dim: int | None) -> torch.Tensor:
        return leaf if dim is None or leaf.shape[dim] <= most else leaf.narrow(dim, 0, most).clone()

    return [few(leaf, dim) for leaf, dim in zip(sample, places, strict=True)]


def rows_of(sample: Leaves, contract: Contract) -> int:
    """How many rows a call has."""
    places = [(leaf, spec) for leaf, spec in zip(sample, contract.inputs, strict=True) if spec.batch_dim is not None]
    leaf, spec = places[0]
    return 1 if spec.stacked or spec.batch_dim is None else leaf.shape[spec.batch_dim]


def alike(one: Leaves, other: Leaves) -> bool:
    """Whether they agree in all but their sizes."""
    return [(x.dtype, x.dim(), x.device) for x in one] == [(x.dtype, x.dim(), x.device) for x in other]


def same_names(one: Call, other: Call) -> bool:
    """Whether two calls pass the same arguments."""
    return len(one[0]) == len(other[0]) and sorted(one[1]) == sorted(other[1])


def same_sizes(leaves: Leaves, samples: list[Leaves]) -> bool:
    """Whether one of the samples has these sizes."""
    return any([x.shape for x in leaves] == [x.shape for x in sample] for sample in samples)


def shaped_like(sample: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """The sample's values, repeated or cut to the leaf's sizes, in its dtype; the leaf's own where ranks differ."""
    if sample.dim() != leaf.dim() or not sample.numel():
        return leaf.detach().clone()
    for dim, size in enumerate(leaf.shape):
        sample = sample.index_select(dim, torch.arange(size, device=sample.device) % sample.shape[dim])
    return sample.to(leaf.device, leaf.dtype)
