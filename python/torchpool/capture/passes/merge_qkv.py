"""Merges linear layers over the same input (queries, keys and values) into one."""

from __future__ import annotations

import operator
from collections import defaultdict

import torch
from torch.fx import GraphModule, Node

from torchpool.capture.graph_edit import bound_arguments, calls, foldable, value_of
from torchpool.capture.linear_choice import WORTHWHILE
from torchpool.capture.passes.layout import may_change_strides, use_reshape
from torchpool.capture.passes.onednn import supported
from torchpool.capture.passes.pack_linear import Linear, read

_aten = torch.ops.aten


def run(module: GraphModule) -> int:
    """Two or more at a time; their results become views of one, whose rows are further apart."""
    graph = module.graph
    constants = foldable(graph)
    groups: dict[tuple[Node, bool], list[tuple[Node, Linear]]] = defaultdict(list)
    for node in calls(graph, _aten.linear.default):
        found = read(node, constants)
        if found is not None and all(part is None or _is_early(part) for part in (found.weight, found.bias)):
            groups[found.x, found.bias is None].append((node, found))
    merged = [group for group in groups.values() if len(group) > 1 and _is_worthwhile(group)]
    if not merged or not may_change_strides(graph):
        return 0
    for group in merged:
        _merge(graph, group)
    use_reshape(graph)
    return len(merged)


def _is_early(node: Node) -> bool:
    """Whether a weight is known where the first of its group is computed; casts of weights come before everything."""
    return node.op == "placeholder" or all(used.op == "placeholder" for used in node.all_input_nodes)


def _is_worthwhile(group: list[tuple[Node, Linear]]) -> bool:
    weights = [value_of(found.weight) for _, found in group]
    dtype = weights[0].dtype
    known = dtype == torch.float32 or supported(dtype)
    return bool(known and sum(weight.numel() for weight in weights) >= WORTHWHILE[dtype])


def _merge(graph: torch.fx.Graph, group: list[tuple[Node, Linear]]) -> None:
    first, layer = group[0]
    x = bound_arguments(first)["input"]  # as it is now: another group may have replaced it
    widths = [value_of(found.weight).shape[0] for _, found in group]
    with graph.inserting_before(first):
        weight = graph.call_function(_aten.cat.default, ([found.weight for _, found in group],))
        bias = None
        if layer.bias is not None:
            bias = graph.call_function(_aten.cat.default, ([found.bias for _, found in group],))
            bias.meta["val"] = torch.cat([value_of(found.bias) for _, found in group])
        weight.meta["val"] = torch.cat([value_of(found.weight) for _, found in group])
        linear = graph.call_function(_aten.linear.default, (x, weight, bias))
        linear.meta["val"] = torch.cat([value_of(node) for node, _ in group], -1)
        parts = graph.call_function(_aten.split_with_sizes.default, (linear, widths, -1))
        parts.meta["val"] = [value_of(node) for node, _ in group]
    for place, (node, _) in enumerate(group):
        with graph.inserting_before(node):
            part = graph.call_function(operator.getitem, (parts, place))
        part.meta["val"] = value_of(node)
        node.replace_all_uses_with(part)
        graph.erase_node(node)
