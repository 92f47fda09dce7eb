"""Mixtures of experts: transformers' Python operator for a matrix product per expert, as ATen's own."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

from torchpool.capture.graph_edit import bound_arguments, value_of
from torchpool.capture.program import CaptureError

_NAME = "transformers::grouped_mm_fallback"
_ALIGNMENT = 16  # bytes that ATen asks of the distance between rows


def replace(graph: Graph) -> None:
    """Rewrites the operator where it occurs. Raises CaptureError for sizes that ATen's does not take."""
    for node in list(graph.nodes):
        if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.name != _NAME:
            continue
        given = bound_arguments(node)
        rows, weight = given["input"], given["weight"]
        for matrix in (rows, weight):
            if not _aligned(matrix):
                shape = tuple(value_of(matrix).shape)
                raise CaptureError(f"node {node.name}: experts of sizes {shape} are no multiple of {_ALIGNMENT} bytes")
        with graph.inserting_before(node):
            ends = graph.call_function(torch.ops.aten.to.dtype, (given["offs"], torch.int32))
            ends.meta["val"] = value_of(given["offs"]).to(torch.int32)
            product = graph.call_function(torch.ops.aten._grouped_mm.default, (rows, weight, ends))
        product.meta["val"] = value_of(node)
        node.replace_all_uses_with(product)
        graph.erase_node(node)


def _aligned(node: Node) -> bool:
    value = value_of(node)
    outer = value.stride(-2) if value.stride(-1) == 1 else value.stride(-1)
    return isinstance(outer, int) and outer * value.element_size() % _ALIGNMENT == 0
