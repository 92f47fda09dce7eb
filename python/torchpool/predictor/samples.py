"""Calls that are kept as samples, to prove by what is learned of their kind."""

from __future__ import annotations

import torch

from torchpool.call import Call
from torchpool.contract import Contract, Leaves

_MOST_ROWS = 8  # of each


def copies(leaves: Leaves) -> Leaves:
    """Of a call's tensors, detached."""
    return [leaf.detach().clone() for leaf in leaves]


def few_rows(sample: Leaves, contract: Contract) -> Leaves:
    """A sample that may be kept: a large first call would hold its memory for as long as the predictor lives."""

    def few(leaf: torch.Tensor, dim: int | None, stacked: bool) -> torch.Tensor:
        if dim is None or stacked or leaf.shape[dim] <= _MOST_ROWS:
            return leaf
        return leaf.narrow(dim, 0, _MOST_ROWS).clone()

    return [few(leaf, spec.batch_dim, spec.stacked) for leaf, spec in zip(sample, contract.inputs, strict=True)]


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
