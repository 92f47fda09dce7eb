"""Drops conversions to the type that a tensor has, and slices that leave nothing out."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from torchpool.capture.graph_edit import bound_arguments, calls, value_of

_aten = torch.ops.aten
_CONVERSIONS = (_aten.to.dtype, _aten.to.dtype_layout, _aten.to.device, _aten.to.other, _aten.type_as.default)
_END = 2**63 - 1


def run(module: GraphModule) -> int:
    """These return the very tensor that they are given, or all of it."""
    count = 0
    for node in calls(module.graph, *_CONVERSIONS, _aten.slice.Tensor):
        arguments = bound_arguments(node)
        source = arguments["self"]
        if _leaves_out_nothing(arguments) if node.target is _aten.slice.Tensor else _converts_nothing(node, arguments):
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
            count += 1
    return count


def _leaves_out_nothing(arguments: dict[str, Any]) -> bool:
    start, end, step = arguments.get("start"), arguments.get("end"), arguments.get("step", 1)
    return start in (None, 0) and (end is None or (isinstance(end, int) and end == _END)) and step == 1


def _converts_nothing(node: Node, arguments: dict[str, Any]) -> bool:
    before, after = value_of(arguments["self"]), value_of(node)
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return False
    same = (before.dtype, before.device, before.layout) == (after.dtype, after.device, after.layout)
    preserved = arguments.get("memory_format") in (None, torch.preserve_format)
    return same and preserved and not arguments.get("copy")
