"""Checks for passes that change the memory layout of a result."""

from __future__ import annotations

import torch
from torch.fx import Graph

from torchpool.capture.graph_edit import Memory, calls, foldable

_aten = torch.ops.aten
# These ask for a certain layout, not only for certain sizes.
_STRICT = frozenset({
    _aten.as_strided.default, _aten.view.dtype, _aten.view_as_complex.default, _aten.view_as_real.default,
    _aten.stride.int,
})  # fmt: skip


def may_change_strides(graph: Graph) -> bool:
    """Whether only sizes count in the graph: no one writes through a view, or takes memory as it lies."""
    if any(node.target in _STRICT for node in graph.nodes):
        return False
    constants = foldable(graph)
    return all(node in constants for node, _ in Memory(graph).writes)


def use_reshape(graph: Graph) -> None:
    """Lets views be copies where strides are no longer what they were."""
    for node in calls(graph, _aten.view.default, _aten._unsafe_view.default):
        node.target = _aten.reshape.default
